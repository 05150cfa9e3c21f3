"""Errors of the entries of a diagonal, each from the same passes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from curvtool.estimators.accuracy.forms import ALIKE, FEW_SIGNS, PASSES_OF_FEW_SIGNS, chi_square
from curvtool.estimators.accuracy.noise import NOISE_OF_ENTRIES
from curvtool.linalg.intervals import student_t_quantile

if TYPE_CHECKING:
    from curvtool.linalg.space import VectorSpace

_WRONG_SIGN = 1e-3  # how often the sign of an entry that is zero, or nearly, is told
_MOST_PRIOR = 1000.0  # degrees of freedom, where all entries have one variance


@dataclass(frozen=True)
class EntryErrors:
    """What the passes say of a diagonal's errors.

    Attributes:
        stderr: of every entry, a vector; never below the rounding.
        degrees: degrees of freedom of these.
        total: the sum of the entries' variances, those of the mean over the passes.
        is_enough: whether the passes, or the entries that make up that sum, are enough for it to be believed.
        zero: which rows are zeros, to within rounding: no sign and no spread of theirs says anything.
    """

    stderr: torch.Tensor
    degrees: float
    total: float
    is_enough: bool
    zero: torch.Tensor


def of_entries(
    space: VectorSpace, mean: torch.Tensor, squares: torch.Tensor, forms: np.ndarray, noise: float
) -> EntryErrors:
    """The standard errors of the means of n passes, each entry's variance moderated by those of all entries.

    A sample variance s_i^2 of a few passes is 0 where they fall alike by chance. With the prior d0 s0^2 / chi^2(d0) for
    the true variances, d0 and s0 from the mean and the spread of log s_i^2 over the entries, the estimate is
    (d0 s0^2 + d s_i^2) / (d0 + d) with d0 + d degrees of freedom, d = n - 1 (Smyth 2004, Stat. Appl. Genet. Mol. Biol.
    3(1), article 3). Where the entries' variances differ by orders of magnitude d0 is small, and little changes.
    Entries whose passes are all zero, to within rounding, are taken for rows of zeros: the logarithm of what rounding
    left there would decide the prior.

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
    floor = rounding_of_entries(space, rows, noise).square()
    zero = rows <= floor
    seen = (variances > (ALIKE * noise) ** 2 * rows) & ~zero
    logs = torch.where(seen, variances, torch.ones_like(variances)).log()
    facts = [space.total(x) for x in (seen.to(logs.dtype), logs, logs.square(), variances, variances.square())]
    count, first, second, total, fourth = torch.stack(facts).to("cpu", torch.float64).tolist()
    prior, degrees = 0.0, 0.0
    if count >= 2:
        center = first / count
        degrees, prior = _prior(center, max(second / count - center**2, 0.0) * count / (count - 1), d)
    moderated = variances if degrees == 0.0 else (degrees * prior + d * variances) / (degrees + d)
    # a row whose small spread was seen is given no more than that leaves open, at 1 %; and none an interval of 95 %
    # shorter than by its own passes alone: rows whose variance is far above the others', as in the last layer of a
    # large network, are too few to show in the prior
    moderated = torch.where(seen, torch.minimum(moderated, variances * (d / chi_square(d, -2.326))), moderated)
    own = (student_t_quantile(0.975, d) / student_t_quantile(0.975, degrees + d)) ** 2
    moderated = torch.maximum(moderated, own * variances)
    alike = np.ptp(forms, axis=0) <= ALIKE * noise * np.abs(forms).max(axis=0)
    alone = total**2 <= FEW_SIGNS * fourth or bool(alike.any())
    if alone and num_passes < PASSES_OF_FEW_SIGNS:  # no spread was seen, which a few passes may hide: the row's bound
        moderated = torch.where(seen, moderated, torch.maximum(moderated, rows))
    moderated = torch.where(zero, torch.zeros_like(moderated), moderated)
    return EntryErrors(
        (moderated / num_passes + floor).sqrt(),
        degrees + d,
        total / num_passes + float(space.total(floor)),
        num_passes >= PASSES_OF_FEW_SIGNS or not alone,
        zero,
    )


def share_below_zero(entries: torch.Tensor, stderr: torch.Tensor, degrees: float) -> tuple[float, float]:
    """A 95 % interval of the share of entries that are below zero.

    The share of *estimates* below zero is none: noise puts half of the small entries there. An entry's sign is told
    where it is farther from zero than its error at 0.1 %. More than 4 % of the entries are told wrongly with a
    probability of 2.5 % at most, however they depend on one another (Markov's inequality): the interval is wider by so
    many on either side.

    Args:
        entries: the estimates; exact zeros are taken for rows of zeros.
        stderr: their standard errors, or where exact their rounding.
        degrees: degrees of freedom of these; infinite where nothing is random.
    """
    exact = math.isinf(degrees)
    reach = stderr if exact else student_t_quantile(1 - _WRONG_SIGN, max(degrees, 1.0)) * stderr
    below, open_ = entries < -reach, (entries < reach) & (entries != 0)
    counts = torch.stack([below.sum(), open_.sum()]).tolist()
    low, high = (count / max(entries.numel(), 1) for count in counts)
    slack = 0.0 if exact else _WRONG_SIGN / 0.025
    return max(low - slack, 0.0), min(high + slack, 1.0)


def stderr_of_mean(stderr: torch.Tensor) -> float:
    """The standard error of the mean of these entries, at most: that of a symmetric block's sum has twice the sum of
    the entries' variances, its couplings with other blocks once.

    Args:
        stderr: of every entry, over the probes.
    """
    scale = float(stderr.abs().max()) if stderr.numel() else 0.0
    return scale * math.sqrt(2 * float((stderr / scale).double().square().sum())) / stderr.numel() if scale else 0.0


def rounding_of_entries(space: VectorSpace, rows: torch.Tensor, noise: float) -> torch.Tensor:
    """What rounding may add to every entry, a vector: relative to the norm of its row, and to that of a mean row,
    whose rounding a small row's products carry too.

    Args:
        space: of the vectors.
        rows: sum_j A_ij^2 of every row i, or an estimate of it.
        noise: relative error of a product.
    """
    return NOISE_OF_ENTRIES * noise * (rows + space.total(rows) / space.dim).sqrt()


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
