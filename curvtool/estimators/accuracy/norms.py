"""Errors of the norms of many Jacobians: probes, solver and rounding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from curvtool.linalg.batched_lanczos import RitzTops
from curvtool.linalg.intervals import chi_square_quantile

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

    def _sides_of_distance(
        self, apart: np.ndarray, rows: np.ndarray, first: np.ndarray, drawn: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """How far each norm may lie towards the mean, and away from it: a few of few degrees may make all of the
        spread, and theirs are far from alike. Those of no probe count in `_iteration_in_std`."""
        below, above = (np.abs(side[rows] - first) * drawn for side in self.bounds)
        return np.where(apart > 0, below, above), np.where(apart > 0, above, below)

    def _iteration_in_std(self, rows: np.ndarray, first: np.ndarray, drawn: np.ndarray) -> float:
        """How far what an iteration leaves may move the standard deviation: no farther than the root mean square of the
        moves, since the deviation of a sum is at most the sum of the deviations."""
        sides = np.stack([np.abs(side[rows] - first) for side in self.bounds]).max(axis=0) * ~drawn
        return math.sqrt(float((sides**2).mean()))

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
        apart = first - first.mean()
        towards, away = (
            2 / num * math.sqrt(float(((apart * np.maximum(side, 2 * stderr)) ** 2 + 2 * stderr**4).sum()))
            for side in self._sides_of_distance(apart, rows, first, stderr > 0)
        )
        rounding = noise * (mean + math.sqrt(variance))
        left = rounding + self._iteration_in_std(rows, first, stderr > 0)
        bounds = {
            "mean": (mean - below - rounding, mean + above + rounding),
            "std": (
                math.sqrt(max(variance - towards, 0.0)) - left,
                math.sqrt(variance + away) + left,
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


def frobenius_norms(
    kept: np.ndarray, rest: np.ndarray, cosines: np.ndarray, num_probes: int, units: np.ndarray
) -> NormEstimates:
    """||J||_F = sqrt(kept + rest): `kept` is known, `rest` is by probes, the mean of their squares.

    Args:
        kept: in the squares of `units`, shape (N,).
        rest: likewise.
        cosines: `cosines_of_pairs`, shape (N,).
        num_probes: m.
        units: of the norms, shape (N,).
    """
    value = np.sqrt(kept + rest)
    degrees = np.where(rest > 0, num_probes / cosines, np.inf)
    sides = []
    for error in (0.05, 0.05 / len(kept)):
        ends = [
            units * np.sqrt(kept + rest / chi_square_quantile(p, degrees / (1 + wider * (1 - cosines))))
            for p, wider in ((1 - error / 2, _WIDER[0]), (error / 2, _WIDER[1]))
        ]
        sides.append(np.stack(ends))
    stderr = rest * np.sqrt(2 / degrees) / (2 * np.maximum(value, 1e-300))  # the delta rule
    value, stderr = units * value, units * stderr
    return NormEstimates(value, stderr, degrees, sides[0], sides[1], np.full_like(value, np.nan))


def spectral_norms(value: np.ndarray, error: np.ndarray, reach: np.ndarray) -> NormEstimates:
    """||J||_2 by Lanczos: never below the value, above it by at most `error`, or `reach` for all together, (N,)."""
    zero, infinite = np.zeros_like(value), np.full_like(value, np.inf)
    bounds, together = np.stack([value, value + error]), np.stack([value, value + reach])
    return NormEstimates(value, zero, infinite, bounds, together, np.full_like(value, np.nan))
