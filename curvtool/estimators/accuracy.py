"""The only maker of errors: how far a number may lie from the one that was asked for, and why.

Four sources are told apart. *Solver*: an iteration was stopped. *Probes*: random vectors were drawn; a standard error
with its degrees of freedom. *Data*: another sample of as many data would give another number. *Arithmetic*: the
products are rounded. Python functions, the monitor, commands, reports and comparisons take what is made here and add
nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from curvtool.linalg.batched_lanczos import RitzTops
from curvtool.linalg.intervals import beta_probability, chi_square_quantile, student_t_quantile
from curvtool.linalg.ritz import RitzPairs

if TYPE_CHECKING:
    from curvtool.linalg.space import VectorSpace
    from curvtool.operators.base import LinearOperator

NOISE_OF_PAIRS = 3  # an eigenpair's noise in units of a random vector's, which is the one measured; up to 2.3 were seen
NOISE_OF_TRACES = 10  # a trace's noise in units of a random vector's, which is the one measured; up to 8.3 were seen


def noise_of(operator: LinearOperator, given: float | None = None) -> float:
    """The relative error of the operator's products, ||fl(A v) - A v|| / ||A v|| for a random v.

    Args:
        operator: whose products they are.
        given: as measured by the caller; None: as the operator knows it (`LinearOperator.noise`).

    Returns:
        Never below the unit of rounding of the vectors' dtype.
    """
    return max(operator.noise if given is None else given, operator.space.eps)


@dataclass(frozen=True)
class Estimate:
    """A number from random probes, with what it may be off by.

    Attributes:
        value: the estimate.
        stderr: its standard error over the probes; None where it is not known (a single probe).
        degrees: degrees of freedom of that standard error; infinite where nothing random is left.
        arithmetic: what rounding may add, not random.
    """

    value: float
    stderr: float | None
    degrees: float = math.inf
    arithmetic: float = 0.0

    def half_width(self, error_probability: float = 0.05) -> float | None:
        """Half of the interval at this error probability: Student's t over the probes, plus the arithmetic."""
        if self.stderr is None:
            return None
        if self.stderr == 0.0:
            return self.arithmetic
        return student_t_quantile(1.0 - error_probability / 2, max(self.degrees, 1.0)) * self.stderr + self.arithmetic

    def interval(self, error_probability: float = 0.05) -> tuple[float, float] | None:
        """Lower and upper end; None where the standard error is not known."""
        half = self.half_width(error_probability)
        return None if half is None else (self.value - half, self.value + half)


# Norms of many Jacobians -------------------------------------------------------------------------------------------

NOISE_OF_NORMS = 10  # a norm's rounding in units of that measured on a few examples; up to 7.7 were seen
_UNITS_OF_NORMS = 16  # and in units of the dtype's rounding, at the least
_MISSED_TOP = 0.01  # how often a spectral norm may lie above its error
_SATURATED = 0.03  # of the largest norm: smaller norms are rounded as one of this size
# More variance than the pairs of few probes show, for the lower and the upper end: a large direction that the probes
# missed makes the estimate and its variance small together. By simulation of spikes above tails, 12 to 16 probes.
_WIDER = (0.25, 1.0)


def missed_top(ritz: RitzTops, dim: int, eps: float, probability: float = _MISSED_TOP) -> torch.Tensor:
    """How far the largest eigenvalue may lie above the largest Ritz value theta, shape (n,).

    A start g on the unit sphere has |<g, q>| < alpha for the top eigenvector q with probability at most
    alpha sqrt(2 C / pi). Let p(x) = prod (x - theta_i) over the other Ritz values. The Ritz vector is p(A) g up to its
    norm, so that its residual r has a part along q, and with the weight w = |<g, Ritz vector>|

        (lambda - theta) prod (lambda - theta_i) / (theta - theta_i) <= r w / alpha.

    The left side grows with lambda. No gap is supposed: equal and nearly equal values are covered. Never below a
    quarter of the residual.

    Args:
        ritz: what the iteration knows.
        dim: C.
        eps: unit of rounding, relative to theta, below which no residual is believed.
        probability: that the bound fails, over the starts.
    """
    limit = _weighted_residual(ritz, dim, eps, probability)
    low, high = torch.full_like(limit, -745.0), limit.clamp_min(1e-300).log()  # the product is never below one
    for _ in range(60):
        middle = (low + high) / 2
        above = _log_growth(ritz, middle.exp()) > limit.log()
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return torch.where(limit > 0, torch.maximum(high.exp(), ritz.residuals / 4), 0.0)


def top_within(ritz: RitzTops, dim: int, rtol: float, probability: float = _MISSED_TOP) -> torch.Tensor:
    """Whether `missed_top` is at most rtol theta, shape (n,)."""
    limit = _weighted_residual(ritz, dim, 0.0, probability)
    close = (_log_growth(ritz, rtol * ritz.values) >= limit.log()) & (ritz.residuals / 4 <= rtol * ritz.values)
    return (ritz.values == 0) | close


def _weighted_residual(ritz: RitzTops, dim: int, eps: float, probability: float) -> torch.Tensor:
    residuals = torch.maximum(ritz.residuals, eps * ritz.values)
    return residuals * ritz.weights / (probability * math.sqrt(math.pi / (2 * dim)))


def _log_growth(ritz: RitzTops, excess: torch.Tensor) -> torch.Tensor:
    gaps = (ritz.values[:, None] - ritz.others).clamp_min(1e-300)
    return excess.log() + torch.log1p(excess[:, None] / gaps).sum(1)


def cosines_of_pairs(gram: torch.Tensor) -> torch.Tensor:
    """rho, the mean squared cosine of the pairs among m probes, from their inner products; shape (n,).

    With y_a = B z_a for standard normal z_a, the mean of the squares |y_a|^2 is tr(B^T B) times a mixture of
    chi-squares, close to chi-square / degrees with m / rho degrees, rho = tr((B^T B)^2) / tr(B^T B)^2 (Satterthwaite
    1946). E (y_a . y_b)^2 = tr((B^T B)^2), so that pairs tell rho; it is exactly one where B has rank one. The m
    squares alone show their spread far worse, and fall together with it.

    Args:
        gram: inner products of the probes, shape (n, m, m), m >= 2.
    """
    squares = gram.diagonal(dim1=1, dim2=2)
    between = gram.square().sum((1, 2)) - squares.square().sum(1)
    whole = squares.sum(1).square() - squares.square().sum(1)
    return torch.where(whole > 0, between / whole.clamp_min(1e-300), 1.0).clamp(1e-12, 1.0)


@dataclass(frozen=True)
class NormSummary:
    """The distribution of a norm over examples.

    Attributes:
        values: `mean`, `std`, `min`, `median`, `p95` and `max`, free of what probes add to them. `max` is the largest
            exact norm where examples were recomputed, never the largest of noisy ones.
        bounds: 95 % intervals of the same for these examples: probes, iteration and rounding.
        examples_stderr: standard error of the mean over the examples: what another sample of examples would change.
    """

    values: dict[str, float]
    bounds: dict[str, tuple[float, float]]
    examples_stderr: float


@dataclass(frozen=True)
class NormEstimates:
    """One norm of N examples with what is known of its errors; rounding comes in with `noise`, relative.

    Attributes:
        first: estimates, before any example was chosen for its size, shape (N,).
        stderr: their standard errors over the probes, zero where none took part, shape (N,).
        degrees: degrees of freedom, infinite where no probe took part, shape (N,).
        bounds: 95 % interval of each example, shape (2, N).
        reach: intervals that hold for all N examples together with 95 %, shape (2, N).
        exact: the norm from all rows, NaN where it was not computed, shape (N,).
    """

    first: np.ndarray
    stderr: np.ndarray
    degrees: np.ndarray
    bounds: np.ndarray
    reach: np.ndarray
    exact: np.ndarray

    @property
    def values(self) -> np.ndarray:
        """Exact where known, else the estimate."""
        return np.where(np.isnan(self.exact), self.first, self.exact)

    def interval(self, noise: float, together: bool = False) -> np.ndarray:
        """Intervals with rounding, shape (2, N): 95 % of each example, or of all together."""
        sides = np.where(np.isnan(self.exact), self.reach if together else self.bounds, self.exact)
        half = noise * floored(self.values)
        return np.stack([np.maximum(sides[0] - half, 0.0), sides[1] + half])

    def rivals(self, listed: Sequence[int], noise: float) -> np.ndarray:
        """Rows beside the listed ones that may be larger than the smallest of these, at 95 %."""
        if not listed:
            return np.zeros(0, dtype=int)
        low, high = self.interval(noise, together=True)
        high[list(listed)] = -np.inf
        return np.flatnonzero(high > low[list(listed)].min())

    @staticmethod
    def _side_of_mean(sides: np.ndarray, drawn: np.ndarray) -> float:
        """What is independent adds up in quadrature; what an iteration leaves adds up."""
        return float(np.sqrt((sides[drawn] ** 2).sum()) + sides[~drawn].sum()) / len(sides)

    def summary(self, noise: float, rows: np.ndarray | None = None) -> NormSummary:
        """The distribution over these rows, all if None.

        Estimates are spread wider than the norms: they are drawn together to the norms' own variance (Louis 1984)
        before quantiles are taken. The mean is that of the first estimates, since those recomputed were chosen for
        their size; its sides are the examples' sides, those of probes in
        quadrature (Zou and Donner 2008).
        """
        rows = np.arange(len(self.first)) if rows is None else rows
        if self.first is not self.exact and not np.isnan(self.exact[rows]).any():
            return exact_norms(self.exact[rows]).summary(noise)  # nothing is left of the estimates
        first, stderr, num = self.first[rows], self.stderr[rows], len(rows)
        relative = stderr / np.maximum(first, 1e-300)
        unbiased = first * (1 + relative**2 / 2)  # E sqrt(x) = sqrt(E x) (1 - var / (8 (E x)^2))
        mean, spread = float(unbiased.mean()), float((stderr**2).mean())
        seen = float(first.var())
        variance = max(seen - spread * (1 - 1 / num), 0.0)
        drawn = mean + (unbiased - mean) * math.sqrt(variance / seen) if spread > 0 and seen > 0 else first
        exact = self.exact[rows]
        low, high = self.interval(noise)[:, rows]
        least, most = self.interval(noise, together=True)[:, rows]
        below, above = (self._side_of_mean(np.abs(side[rows] - first), stderr > 0) for side in self.bounds)
        offset = (first - first.mean()) ** 2 * stderr**2
        off = 2 / num * math.sqrt(float((offset + stderr**4 / 2).sum()))
        rounding = noise * (mean + math.sqrt(variance))
        bounds = {
            "mean": (mean - below - rounding, mean + above + rounding),
            "std": (
                math.sqrt(max(variance - 2 * off, 0.0)) - rounding,
                math.sqrt(variance + 2 * off) + rounding,
            ),
            "min": (float(least.min()), float(most.min())),
            "median": (float(np.median(low)), float(np.median(high))),
            "p95": (float(np.percentile(low, 95)), float(np.percentile(high, 95))),
            "max": (float(least.max()), float(most.max())),
        }
        values = {
            "mean": mean,
            "std": math.sqrt(variance),
            "min": float(drawn.min()),
            "median": float(np.median(drawn)),
            "p95": float(np.percentile(drawn, 95)),
            "max": float(drawn.max() if np.isnan(exact).all() else np.nanmax(exact)),
        }
        values = {name: min(max(value, bounds[name][0]), bounds[name][1]) for name, value in values.items()}
        values["p95"] = min(values["p95"], values["max"])
        bounds = {name: (max(ends[0], 0.0), ends[1]) for name, ends in bounds.items()}
        return NormSummary(values, bounds, math.sqrt(variance / max(num - 1, 1)))


def noise_of_norms(measured: float | None, eps: float) -> float:
    """Relative error of any example's norm by rounding: from what a few examples showed (None: nothing) and eps."""
    return max(NOISE_OF_NORMS * (measured or 0.0), _UNITS_OF_NORMS * eps)


def floored(norms: np.ndarray) -> np.ndarray:
    """The scale of each norm's rounding: its own, and where an example is saturated a part of the largest one's."""
    return np.maximum(norms, _SATURATED * norms.max(initial=0.0))


def exact_norms(values: np.ndarray) -> NormEstimates:
    """Norms from all rows: rounding remains."""
    zero, both = np.zeros_like(values), np.stack([values, values])
    return NormEstimates(values, zero, np.full_like(values, np.inf), both, both, values)


def frobenius_norms(kept: np.ndarray, rest: np.ndarray, cosines: np.ndarray, num_probes: int) -> NormEstimates:
    """||J||_F = sqrt(kept + rest): `kept` is known, `rest` is by probes, the mean of their squares.

    Args:
        kept: shape (N,).
        rest: shape (N,).
        cosines: `cosines_of_pairs`, shape (N,).
        num_probes: m.
    """
    value = np.sqrt(kept + rest)
    degrees = np.where(rest > 0, num_probes / cosines, np.inf)
    sides = []
    for error in (0.05, 0.05 / len(kept)):
        ends = [
            np.sqrt(kept + rest / chi_square_quantile(p, degrees / (1 + wider * (1 - cosines))))
            for p, wider in ((1 - error / 2, _WIDER[0]), (error / 2, _WIDER[1]))
        ]
        sides.append(np.stack(ends))
    stderr = rest * np.sqrt(2 / degrees) / (2 * np.maximum(value, 1e-300))  # the delta rule
    return NormEstimates(value, stderr, degrees, sides[0], sides[1], np.full_like(value, np.nan))


def spectral_norms(value: np.ndarray, error: np.ndarray, reach: np.ndarray) -> NormEstimates:
    """||J||_2 by Lanczos: never below the value, above it by at most `error`, or `reach` for all together, (N,)."""
    zero, infinite = np.zeros_like(value), np.full_like(value, np.inf)
    bounds, together = np.stack([value, value + error]), np.stack([value, value + reach])
    return NormEstimates(value, zero, infinite, bounds, together, np.full_like(value, np.nan))


# ---- quadratic forms of random signs, a probe for every group of samples

PASSES_OF_FEW_SIGNS = 16  # before a spread is believed where the forms of a group may depend on a few signs
_FEW_SIGNS = 6  # entries that a difference of two passes is spread over, below which forms may fall alike by chance
_SHARE = 0.1  # of the whole variance, below which groups of few signs do not matter
_DEGREES_WANTED = 16  # of the variance at the first look
_MOST_PRIOR = 1000.0  # degrees of freedom, where all entries have one variance
_ALIKE = 16  # noises by which two products may differ and still count as alike


@dataclass(frozen=True)
class GroupSpread:
    """What the passes say of their spread.

    Attributes:
        variance: the estimated variance of a pass.
        degrees: degrees of freedom of that estimate.
        scale: the sum of the groups' Frobenius norms, as estimated.
        is_enough: whether that rests on enough groups and signs for a few passes to tell.
    """

    variance: float
    degrees: float
    scale: float
    is_enough: bool


def of_groups(forms: np.ndarray, pairs: np.ndarray, noise: float) -> GroupSpread:
    """The variance of a pass, sum_t 2 (||A_t||_F^2 - sum_i (A_t)_ii^2), from pairs of passes.

    The entries d = z * (A_t z) of a pass have the diagonal as their mean, and the variance of d_i is
    sum_{j != i} (A_t)_ij^2. So ||d - d'||^2 of two independent passes has the wanted variance as its mean, and P
    entries say it where the two forms sum(d) and sum(d') are a single difference. For A_t of rank one it is as good as
    a chi-square of two degrees of freedom, and better for all others; Satterthwaite (1946) adds up the groups.

    The forms of a group that depends on a few signs fall alike now and then. A polynomial of degree two in signs that
    is not constant differs from any constant with a probability of a quarter at least (Schwartz 1980), so that 16
    passes are all alike in one run of a hundred at most. Before, such groups count with the bound 2 ||A_t||_F^2;
    later, with the forms' own sample variance where that is larger.

    Args:
        forms: the sums of d, shape (n, T).
        pairs: shape (n // 2, T, 3): ||d - d'||^2, ||d||^2 + ||d'||^2, and the sum of the fourth powers of
            (d - d') / ||d - d'||.
        noise: relative error of a product.
    """
    spreads, lengths, fourth = np.moveaxis(pairs, 2, 0)
    num_pairs = len(pairs)
    variances = spreads.mean(axis=0)
    bounds = lengths.mean(axis=0)
    scale = float(np.sqrt(bounds / 2).sum())
    hidden = (spreads <= (_ALIKE * noise) ** 2 * lengths).all(axis=0)  # nothing was seen of the group's spread yet
    sparse = np.where(spreads > 0, fourth, 0.0) > 1.0 / _FEW_SIGNS
    few = sparse.any(axis=0)
    is_clear = not bool(hidden.any()) and (spreads * sparse).sum() <= _SHARE * spreads.sum()
    if len(forms) >= PASSES_OF_FEW_SIGNS:
        bounds = forms.var(axis=0, ddof=1)
    variances = np.where(np.full_like(few, not is_clear) & (hidden | few), np.maximum(variances, bounds), variances)
    total = float(variances.sum())
    if total == 0.0:
        return GroupSpread(0.0, math.inf, scale, is_clear)
    degrees = 2 * num_pairs * total**2 / float((variances**2).sum())
    if is_clear:
        degrees = max(degrees, _degrees_seen(spreads.sum(axis=1)))
    return GroupSpread(total, degrees, scale, is_clear and degrees >= _DEGREES_WANTED)


def _degrees_seen(totals: np.ndarray) -> float:
    """Degrees of freedom of a mean of positive numbers as an estimate of its own mean, from their spread: a 90 % lower
    bound; 0 where they are fewer than four."""
    num = len(totals)
    if num < 4:
        return 0.0
    d = num - 1
    relative = float(totals.var(ddof=1) / totals.mean() ** 2) * d / _chi_square(d, -1.2816)
    return 2 * num / max(relative, 1e-9)


def _chi_square(degrees: int, deviate: float) -> float:
    """A quantile of chi-square by the normal deviate of its probability (Wilson and Hilferty 1931), 1e-3 at least."""
    root = 1 - 2 / (9 * degrees) + deviate * math.sqrt(2 / (9 * degrees))
    return max(degrees * max(root, 0.0) ** 3, 1e-3)


def of_blocks(
    sums: np.ndarray, squares: np.ndarray, spreads: np.ndarray, num_passes: int, noise: float
) -> list[tuple[float, float, float]]:
    """The standard error of every diagonal block's trace, its degrees of freedom, and what rounding may add.

    The variance U = sum of the block's ||d - d'||^2 counts couplings with other blocks twice: the true one lies between
    U / 2 and U, and the forms' own sample variance, of few degrees, says where.

    Args:
        sums: of the blocks' forms over the passes, shape (T, B).
        squares: of their squares, likewise.
        spreads: of ||d - d'||^2 over the pairs of passes, likewise.
        num_passes: n >= 2.
        noise: relative error of a product.
    """
    num_pairs = num_passes // 2
    sampled = np.maximum(squares - sums**2 / num_passes, 0.0).sum(axis=0) / (num_passes - 1)
    each = spreads / num_pairs
    upper = each.sum(axis=0)
    variances = np.clip(sampled, upper / 2, upper)
    fourth = (each**2).sum(axis=0)
    degrees = np.where(fourth > 0, 2 * num_pairs * upper**2 / np.where(fourth > 0, fourth, 1.0), math.inf)
    values = np.abs(sums.sum(axis=0)) / num_passes
    arithmetic = NOISE_OF_TRACES * noise * np.maximum(values, np.sqrt(each).sum(axis=0))
    return list(zip(np.sqrt(variances / num_passes).tolist(), degrees.tolist(), arithmetic.tolist(), strict=True))


# ---- the entries of a diagonal, each from the same passes


@dataclass(frozen=True)
class EntryErrors:
    """What the passes say of a diagonal's errors.

    Attributes:
        stderr: of every entry, a vector; never below the rounding.
        degrees: degrees of freedom of these.
        total: the sum of the entries' variances, those of the mean over the passes.
        is_enough: whether the passes, or the entries that make up that sum, are enough for it to be believed.
    """

    stderr: torch.Tensor
    degrees: float
    total: float
    is_enough: bool


def of_entries(
    space: VectorSpace, mean: torch.Tensor, squares: torch.Tensor, forms: np.ndarray, noise: float
) -> EntryErrors:
    """The standard errors of the means of n passes, each entry's variance moderated by those of all entries.

    A sample variance s_i^2 of a few passes is 0 where they fall alike by chance. With the prior d0 s0^2 / chi^2(d0) for
    the true variances, d0 and s0 from the mean and the spread of log s_i^2 over the entries, the estimate is
    (d0 s0^2 + d s_i^2) / (d0 + d) with d0 + d degrees of freedom, d = n - 1 (Smyth 2004, Stat. Appl. Genet. Mol. Biol.
    3(1), article 3). Where the entries' variances differ by orders of magnitude d0 is small, and little changes.
    Entries whose passes are all exactly zero are taken for rows of zeros.

    Args:
        space: of the vectors.
        mean: mean of the passes' z * (A z), a vector.
        squares: sums of their squared deviations.
        forms: of every group and pass, the sum of z * (A_t z), shape (n, T): a group whose forms are alike may still
            dominate, see `of_groups`.
        noise: relative error of a product.
    """
    num_passes = len(forms)
    d = num_passes - 1
    variances = squares / d
    rows = mean.square() + variances  # sum_j A_ij^2, as estimated
    seen = variances > (_ALIKE * noise) ** 2 * rows
    logs = torch.where(seen, variances, torch.ones_like(variances)).log()
    facts = [space.total(x) for x in (seen.to(logs.dtype), logs, logs.square(), variances, variances.square())]
    count, first, second, total, fourth = torch.stack(facts).to("cpu", torch.float64).tolist()
    prior, degrees = 0.0, 0.0
    if count >= 2:
        center = first / count
        degrees, prior = _prior(center, max(second / count - center**2, 0.0) * count / (count - 1), d)
    moderated = variances if degrees == 0.0 else (degrees * prior + d * variances) / (degrees + d)
    # a row whose small spread was seen is given no more than that leaves open, at 1 %
    moderated = torch.where(seen, torch.minimum(moderated, variances * (d / _chi_square(d, -2.326))), moderated)
    zero = (mean == 0) & (squares == 0)
    moderated = torch.where(zero, torch.zeros_like(moderated), moderated)
    floor = (NOISE_OF_PAIRS * noise) ** 2 * rows
    alike = np.ptp(forms, axis=0) <= _ALIKE * noise * np.abs(forms).max(axis=0)
    alone = total**2 <= _FEW_SIGNS * fourth or bool(alike.any())
    return EntryErrors(
        (moderated / num_passes + floor).sqrt(),
        degrees + d,
        total / num_passes + float(space.total(floor)),
        num_passes >= PASSES_OF_FEW_SIGNS or not alone,
    )


def _prior(center: float, spread: float, d: int) -> tuple[float, float]:
    """d0 and s0^2 from the mean and the variance of the logarithms of variances with d degrees of freedom each."""

    def polygamma(order: int, x: float) -> float:
        return float(torch.special.polygamma(order, torch.tensor(x, dtype=torch.float64)))

    beyond = spread - polygamma(1, d / 2)
    location = center - polygamma(0, d / 2) + math.log(d / 2)
    if beyond <= polygamma(1, _MOST_PRIOR / 2):
        return _MOST_PRIOR, math.exp(location)
    low, high = 1e-3, _MOST_PRIOR / 2
    for _ in range(60):  # the trigamma function falls
        half = math.sqrt(low * high)
        low, high = (half, high) if polygamma(1, half) > beyond else (low, half)
    return 2 * low, math.exp(location + polygamma(0, low) - math.log(low))


# --- forms v^T f(A) v with random unit vectors: shares of the eigenvalues, traces, a smoothed density ---


def rounding_of_nodes(noise: float, scale: float) -> float:
    """How far rounding moves an eigenvalue that Lanczos sees, in a matrix whose largest magnitude is `scale`."""
    return max(NOISE_OF_PAIRS * noise, 1e-14) * scale


def share_interval(
    least: np.ndarray, most: np.ndarray, num_probes: int, dim: int, error_probability: float = 0.05
) -> tuple[np.ndarray, np.ndarray]:
    """Between which shares a matrix's own lies, from the mean over m probes of v^T E v, v uniform on the unit sphere.

    E projects on the eigenvectors of the r eigenvalues that count. Then v^T E v ~ Beta(r/2, (n - r)/2), and the mean
    over m probes has mean s = r/n and variance 2 s (1 - s) / (m (n + 2)): its law is taken as the beta law with both.
    Every count r is tested as Clopper & Pearson (Biometrika 26, 1934) do, with half of the error probability on each
    side: r is too large if a mean of at most `most` is too rare, too small if one of at least `least` is. So what the
    nodes leave open and what the probes leave open are one interval, of whole counts.

    Args:
        least: the mean's lower bound, shape (k,).
        most: its upper bound, shape (k,).
        num_probes: m; 0 where nothing is random, and the bounds are the interval.
        dim: n.
        error_probability: that the interval misses, at most (pointwise).

    Returns:
        The lowest and the highest share, each shape (k,).
    """
    if not num_probes:
        return least, most
    tail = error_probability / 2
    low = dim - _largest_count(1.0 - least, num_probes, dim, tail)
    high = _largest_count(most, num_probes, dim, tail)
    return np.minimum(low, high) / dim, np.maximum(low, high) / dim  # between two counts both may be implausible


def _largest_count(mean: np.ndarray, num_probes: int, dim: int, tail: float) -> np.ndarray:
    """The largest r out of `dim` for which a mean of at most `mean` is not rarer than `tail`, shape (k,)."""
    points = np.clip(mean, 1e-30, 1.0 - 1e-16)
    total = num_probes * (dim + 2) / 2 - 1

    def probability(count: np.ndarray) -> np.ndarray:
        inside = np.clip(count, 1.0, dim - 1.0)
        if dim < 2:
            return np.where(mean > 0.5, 1.0, 0.0)
        found = beta_probability(points, inside / dim * total, (1.0 - inside / dim) * total)
        return np.where(count < 1, 1.0, np.where(count < dim, found, np.where(mean >= 1.0, 1.0, 0.0)))

    low, high = np.zeros_like(mean), np.full_like(mean, dim + 1.0)
    while (high - low > 1.0).any():
        middle = np.floor((low + high) / 2)
        plausible = probability(middle) > tail
        low, high = np.where(plausible, middle, low), np.where(plausible, high, middle)
    # what is missing to all of them is too little for a single eigenvalue: rounding
    lacking = (low == dim - 1) & (probability(low) >= 1.0 - tail) & (dim > 1)
    return np.where(lacking, float(dim), low)


def share_stderr(share: float, num_probes: int, dim: int) -> float:
    """The standard error of the mean of v^T E v over the probes, by its law; 0 where nothing is random."""
    return math.sqrt(2 * max(share * (1 - share), 0.0) / (num_probes * (dim + 2))) if num_probes else 0.0


@dataclass(frozen=True)
class Form:
    """The mean over m probes of v^T f(A) v, v uniform on the unit sphere of R^n, as an estimate of tr f(A) / n.

    With mu the mean of the values f(lambda_i) and M_k = sum_i (f(lambda_i) - mu)^k, v^T f(A) v has the variance
    2 M_2 / (n (n + 2)): the quadrature knows M_2, so that one probe has a standard error, and few probes a good one.

    Attributes:
        values: f at the nodes, shape (..., k).
        weights: of the nodes, the mean over the probes, shape (k,), adding up to 1.
        num_probes: m; 0 where nothing is random.
        dim: n.
    """

    values: np.ndarray
    weights: np.ndarray
    num_probes: int
    dim: int

    @property
    def mean(self) -> np.ndarray:
        """The estimate, shape (...)."""
        return np.asarray(self.values @ self.weights)

    @property
    def stderr(self) -> np.ndarray:
        """Its standard error by the law above."""
        if not self.num_probes:
            return np.zeros_like(self.mean)
        spread = (self.values - self.mean[..., None]) ** 2 @ self.weights
        return np.sqrt(2 * spread / (self.num_probes * (self.dim + 2)))

    @property
    def degrees(self) -> np.ndarray:
        """Degrees of freedom of the standard error (Satterthwaite 1946), as far as the mean does not explain it."""
        if not self.num_probes:
            return np.full(self.mean.shape, math.inf)
        return self._degrees(self.values - self.mean[..., None])

    def interval(self, error_probability: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper end, each shape (...); pointwise.

        The parts of f(A) above and below the mean have forms that are independent but for the vectors' length. Each
        gets a score interval (Wilson 1927): |s - S| <= q sigma(s), where the variance sigma(s)^2 follows the
        hypothesis s along the regression of the second moment on the first, M_3 / M_2. Both are put together as Zou &
        Donner do (Statist. Med. 27, 2008). So it is right for a single dominating eigenvalue, whose form is a
        chi-squared variable of m degrees, and for many, where it is the normal interval.
        """
        if not self.num_probes:
            return self.mean, self.mean
        away = self.values - self.mean[..., None]
        down_above, up_above = self._sides(np.maximum(away, 0.0), error_probability)
        down_below, up_below = self._sides(np.maximum(-away, 0.0), error_probability)
        return self.mean - np.hypot(down_above, up_below), self.mean + np.hypot(up_above, down_below)

    def _moments(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """sum w f^k for k = 2, 3, 4."""
        second, third, fourth = (values**k @ self.weights for k in (2, 3, 4))
        return second, third, fourth

    def _degrees(self, values: np.ndarray) -> np.ndarray:
        second, third, fourth = self._moments(values / _largest(values)[..., None])
        safe = np.maximum(second, 1e-300)
        unexplained = np.maximum(fourth - third**2 / safe - second**2, 1e-12 * second)
        return np.maximum(self.num_probes * self.dim * second**2 / np.maximum(unexplained, 1e-300), 1.0)

    def _sides(self, values: np.ndarray, error_probability: float) -> tuple[np.ndarray, np.ndarray]:
        """How far the true mean of these values, none negative, may lie below and above theirs."""
        scale = _largest(values)
        second, third, _ = self._moments(values / scale[..., None])
        quantiles = _t_quantiles(1.0 - error_probability / 2, self._degrees(values))
        q = 2 * quantiles**2 / (self.num_probes * (self.dim + 2))
        slope = np.where(second > 0, third / np.where(second > 0, second, 1.0), 0.0)
        root = np.sqrt((q * slope) ** 2 + 4 * (1 + q) * q * second)
        return scale * (root - q * slope) / (2 * (1 + q)), scale * (root + q * slope) / (2 * (1 + q))


def _largest(values: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(values).max(-1), 1e-300)


_t_quantiles = np.vectorize(student_t_quantile, otypes=[np.float64])


# Data: what another sample of as many data would change

FEWEST_PARTS = 4  # of the data, with a weight: of fewer a spread is itself known to half at best
LARGEST_BIAS = 1.5  # standard errors, beyond which the second order of perturbation theory says too little
Forms = Callable[[np.ndarray, np.ndarray], np.ndarray]
_NEAREST = 64  # Ritz pairs that are rotated when a part is left out; those farther off enter to second order


@dataclass(frozen=True)
class OverData:
    """An eigenvalue of a sample of the data beside that of the population that the sample was drawn from.

    Attributes:
        stderr: the standard error over the data: what another sample of as many data would change.
        bias: how far such a sample's eigenvalue lies above the population's on average; None where it is not known.
        population: estimate of the population's eigenvalue with a 95 % interval; None where there is none.
        reason: why there is none.
    """

    stderr: float
    bias: float | None = None
    population: Population | None = None
    reason: str | None = None

    def moved(self, shift: float, stderr: float) -> OverData:
        """The same of a value that a better product moved, with its standard error."""
        known = self.population
        if known is not None:
            known = replace(known, value=known.value + shift, low=known.low + shift, high=known.high + shift)
        return replace(self, stderr=stderr, population=known)


@dataclass(frozen=True)
class Population:
    """An estimate for the population with its 95 % interval, and the degrees of freedom of that."""

    value: float
    low: float
    high: float
    degrees: int


def data_stderr(forms: np.ndarray, weights: np.ndarray) -> np.ndarray | None:
    """The standard error over the data of sums lambda = sum_b q_b, from the parts' own q_b.

    The ratio estimator of a mean from B clusters, sqrt(B / (B - 1) sum_b (q_b - w_b lambda)^2) (Cochran 1977, 6.13).
    The parts are to be random samples of the data.

    Args:
        forms: q, shape (B, k).
        weights: each part's share w_b of the whole weight, shape (B,).

    Returns:
        Shape (k,); None where fewer than four parts have a weight: of so few it would itself be known to half at best.
    """
    counted = weights > 0
    num = int(counted.sum())
    if num < FEWEST_PARTS or len(forms) != len(weights):
        return None
    deviations = forms[counted] - weights[counted, None] * forms.sum(axis=0)
    return np.asarray(np.sqrt(num / (num - 1) * (deviations**2).sum(axis=0)))


def over_data(
    values: np.ndarray,
    forms: Forms,
    outside: np.ndarray | None,
    weights: np.ndarray,
    k: int,
    which: str,
    errors: Sequence[float],
) -> list[OverData] | None:
    """The wanted eigenvalues over the data, from the parts of a matrix in its Ritz basis: no product is made.

    The largest eigenvalue of a sample lies above the population's: E[lambda] = lambda + d, by perturbation theory
    d = sum_j E[<v_j, E v>^2] / (lambda - lambda_j) + O(E^3) for the deviation E of the sample's matrix. The eigenvector
    of the sample without one part, by that part's matrix, has the mean lambda - d. So half of what lies between the two
    estimates d (the jackknife, Efron 1982; the same without a difference of near numbers). Of the complement of the
    Krylov space the norms of what the parts' products have there are known, and its eigenvalues are taken to lie at the
    mean of the Ritz values that are not wanted.

    Args:
        values: Ritz values, ascending, shape (m,).
        forms: <y_i, A_b y_j> for indices i and j, shape (B, len(i), len(j)).
        outside: ||(I - Y^T Y) A_b y_i||^2 of the wanted pairs, shape (B, n); None where it is not known.
        weights: each part's share of the whole weight, shape (B,).
        k: the number of wanted eigenvalues, of each end.
        which: `la`, `sa`, `lm` or `be`.
        errors: of the wanted values by their solver, shape (n,): the intervals are wider by them.

    Returns:
        In the order of `which`; None where fewer than four parts have a weight.
    """
    index = _wanted(values, np.eye(len(values)), k, which)
    if int((weights > 0).sum()) < FEWEST_PARTS:
        return None
    spread = data_stderr(np.diagonal(forms(index, index), axis1=1, axis2=2), weights)
    if spread is None:
        return None
    if outside is None:
        return [
            OverData(float(s), reason="what the parts' products have outside of the Krylov space was not kept")
            for s in spread
        ]
    counted = weights > 0
    bias = _bias(values, lambda i, j: forms(i, j)[counted], outside[counted], weights[counted], index, k, which)
    degrees = int(counted.sum()) - 1
    quantile = student_t_quantile(0.975, degrees)
    found = []
    for value, stderr, shift, error in zip(values[index], spread, bias, errors, strict=True):
        if not abs(shift) <= LARGEST_BIAS * stderr + error:
            reason = "the sample is too small for it: its eigenvalue is biased by more than 1.5 standard errors"
            found.append(OverData(float(stderr), float(shift), reason=reason))
            continue
        # a large bias is itself known less well than the spread: its excess over a standard error is added
        middle, half = float(value - shift), float(quantile * stderr + max(abs(shift) - stderr, 0.0)) + error
        found.append(OverData(float(stderr), float(shift), Population(middle, middle - half, middle + half, degrees)))
    return found


def _bias(
    values: np.ndarray,
    forms: Forms,
    outside: np.ndarray,
    weights: np.ndarray,
    index: np.ndarray,
    k: int,
    which: str,
) -> np.ndarray:
    """d of the wanted values: shape (n,); see `over_data`."""
    size = len(values)
    distance = np.abs(values[:, None] - values[index]).min(axis=1)
    near = np.sort(np.argsort(distance, kind="stable")[:_NEAREST])
    far = np.setdiff1d(np.arange(size), near)
    held_out = np.zeros(len(index))
    for own, weight in zip(forms(near, near), weights, strict=True):
        without, vectors = np.linalg.eigh((np.diag(values[near]) - own) / (1.0 - weight))
        chosen = vectors[:, _wanted(without, vectors, k, which)]
        held_out += np.einsum("ji,jk,ki->i", chosen, own, chosen)
    bias = (values[index] - held_out) / 2
    rest = np.setdiff1d(np.arange(size), index)
    beyond = values[rest].mean() if len(rest) else 0.0
    shares, to_far = 1.0 / (1.0 - weights), forms(far, index)
    for place, i in enumerate(index):
        terms = (to_far[:, :, place] ** 2 / _apart(values[i] - values[far])).sum(axis=1)
        terms += outside[:, place] / _apart(np.asarray(values[i] - beyond))
        bias[place] += (shares * terms).sum()
    return bias


def _apart(distance: np.ndarray) -> np.ndarray:
    """The distance, not zero."""
    return np.where(distance == 0.0, np.inf, distance)


def _wanted(values: np.ndarray, vectors: np.ndarray, k: int, which: str) -> np.ndarray:
    return RitzPairs(values, vectors, np.zeros_like(values)).wanted(k, which)
