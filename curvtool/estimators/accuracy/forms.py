"""Errors of traces by random signs, a probe for every group of samples."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from curvtool.estimators.accuracy.noise import NOISE_OF_TRACES
from curvtool.linalg.intervals import student_t_quantile

PASSES_OF_FEW_SIGNS = 16  # before a spread is believed where the forms of a group may depend on a few signs
LEAST_PASSES = 5  # before anything is said of the spread of one group: two passes fall alike in half of all pairs
FEW_SIGNS = 6  # entries that a difference of two passes is spread over, below which forms may fall alike by chance
_CERTAIN = 2.326  # normal deviate of 99 %
ONE_GROUP = 0.5  # of the sum of squares of the groups' variances over the square of their sum: fewer than two groups
_SHARE = 0.1  # of the whole variance, below which groups of few signs do not matter
_DEGREES_WANTED = 16  # of the variance at the first look
_OF_THE_WHOLE = 0.1  # of the rounding of the whole, that a block carries however small it is
ALIKE = 16  # noises by which two products may differ and still count as alike


@dataclass(frozen=True)
class GroupSpread:
    """What the passes say of their spread.

    Attributes:
        variance: the estimated variance of a pass.
        degrees: degrees of freedom of that estimate.
        scale: the sum of the groups' Frobenius norms, as estimated.
        is_enough: whether that rests on enough groups and signs for a few passes to tell.
    is_known: whether anything can be said of it.
    """

    variance: float
    degrees: float
    scale: float
    is_enough: bool
    is_known: bool


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
    hidden = (spreads <= (ALIKE * noise) ** 2 * lengths).all(axis=0)  # nothing was seen of the group's spread yet
    sparse = np.where(spreads > 0, fourth, 0.0) > 1.0 / FEW_SIGNS
    few = sparse.any(axis=0)
    is_clear = not bool(hidden.any()) and (spreads * sparse).sum() <= _SHARE * spreads.sum()
    if len(forms) >= PASSES_OF_FEW_SIGNS:
        bounds = forms.var(axis=0, ddof=1)
    variances = np.where(np.full_like(few, not is_clear) & (hidden | few), np.maximum(variances, bounds), variances)
    total = float(variances.sum())
    alone = float(_concentration(variances)) > ONE_GROUP
    is_known = len(forms) >= LEAST_PASSES or (is_clear and not alone)
    if alone and 1 < len(forms) < PASSES_OF_FEW_SIGNS:  # passes of a pair may be alike, and differ from another pair's
        own = float(forms.sum(axis=1).var(ddof=1))
        if own * (len(forms) - 1) / chi_square(len(forms) - 1, _CERTAIN) > total:
            return GroupSpread(own, float(len(forms) - 1), scale, False, is_known)
    if total == 0.0:
        return GroupSpread(0.0, math.inf, scale, is_clear, is_known)
    degrees = 2 * num_pairs / float(_concentration(variances))
    if is_clear:
        degrees = max(degrees, _degrees_seen(spreads.sum(axis=1)))
    return GroupSpread(total, degrees, scale, is_clear and is_known and degrees >= _DEGREES_WANTED, is_known)


def _degrees_seen(totals: np.ndarray) -> float:
    """Degrees of freedom of a mean of positive numbers as an estimate of its own mean, from their spread: a 90 % lower
    bound; 0 where they are fewer than four."""
    num = len(totals)
    if num < 4:
        return 0.0
    d = num - 1
    relative = float((totals / totals.mean()).var(ddof=1)) * d / chi_square(d, -1.2816)
    return 2 * num / max(relative, 1e-9)


def chi_square(degrees: int, deviate: float) -> float:
    """A quantile of chi-square by the normal deviate of its probability (Wilson and Hilferty 1931), 1e-3 at least."""
    root = 1 - 2 / (9 * degrees) + deviate * math.sqrt(2 / (9 * degrees))
    return max(degrees * max(root, 0.0) ** 3, 1e-3)


def floor_of_block(scale: float, size: int, dim: int) -> float:
    """The scale of the rounding in a block of `size` rows of a matrix of `dim` rows and that Frobenius norm.

    A part of the sum of `size` of the `dim` entries that an error of the norm noise ||A||_F is spread over: where a
    layer's curvature is far below that of others, its products are small differences of what rounds as the others do.
    """
    return _OF_THE_WHOLE * scale * math.sqrt(size / dim)


@dataclass(frozen=True)
class BlockFacts:
    """What the passes showed of every diagonal block and group, each of shape (T, B).

    Attributes:
        sums: of the block's forms over the passes.
        squares: of their squares.
        spreads: ||d - d'||^2 over the block's rows, summed over the pairs of passes.
        lengths: ||d||^2 + ||d'||^2 likewise, the mean of which is 2 ||A_t||_F^2 over the block's rows.
        seen: pairs whose spread is more than rounding.
        sparse: pairs whose difference is spread over few entries.
    """

    sums: np.ndarray
    squares: np.ndarray
    spreads: np.ndarray
    lengths: np.ndarray
    seen: np.ndarray
    sparse: np.ndarray


def facts_of_blocks(
    forms: np.ndarray, pair: tuple[np.ndarray, np.ndarray, np.ndarray] | None, noise: float, sizes: np.ndarray
) -> np.ndarray:
    """What one pass or two add to `BlockFacts`, shape (6, T, B).

    Args:
        forms: of the blocks, shape (n, T, B).
        pair: ||d - d'||^2, ||d||^2 + ||d'||^2 and the sum of the fourth powers of d - d', over each block's rows, in
            any unit of the group; None of a single pass.
        noise: relative error of a product.
        sizes: rows of each block, shape (B,).
    """
    found = np.zeros((6, *forms.shape[1:]))
    found[0], found[1] = forms.sum(axis=0), (forms**2).sum(axis=0)
    if pair is not None:
        spreads, lengths, fourth = pair
        fourth = np.maximum(fourth, spreads**2 / sizes)  # no less is possible, and a small layer's may be lost
        found[2], found[3] = spreads, lengths
        found[4] = spreads > (ALIKE * noise) ** 2 * lengths
        found[5] = found[4] * (FEW_SIGNS * fourth > spreads**2)
    return found


def of_blocks(
    facts: BlockFacts, num_passes: int, noise: float, floors: np.ndarray
) -> list[tuple[float, float, float] | None]:
    """The standard error of every diagonal block's trace, its degrees of freedom, and what rounding may add.

    The variance U = sum of the block's ||d - d'||^2 counts couplings with other blocks twice: the true one lies between
    U / 2 and U, and the forms' own sample variance says where. Of a group of rank one, whose forms are a chi-square's,
    that has the relative variance 2 / (n - 1) + 12 / n, which says its degrees of freedom. The shorter of the two
    intervals is taken: few passes of one group tell U far better.

    A block may depend on a few signs though the whole does not: one of a few parameters, or one that few samples touch.
    There it counts as a group does in `of_groups`: with the bound where no spread was seen yet, or that of a few signs
    in a few groups, before `PASSES_OF_FEW_SIGNS`; later with the forms' own variance. Its pairs have one degree of
    freedom and not two. Of a block that depends on one group no error is known before
    `LEAST_PASSES`: None.

    Args:
        facts: what the passes showed.
        num_passes: n >= 2.
        noise: relative error of a product.
        floors: the scale whose rounding each block carries however small it is itself, see `floor_of_block`, (B,).
    """
    n, num_pairs = num_passes, num_passes // 2
    sampled = np.maximum(facts.squares - facts.sums**2 / n, 0.0) / (n - 1)
    each, bounds = facts.spreads / num_pairs, facts.lengths / num_pairs
    hidden, sparse = (facts.seen == 0) & (bounds > 0), facts.sparse > 0
    freedom = num_pairs * np.where(sparse | hidden, 1, 2)
    is_few = _degrees_of_sum(each, freedom) < _DEGREES_WANTED
    few = hidden | (sparse & is_few & (_share_of(each, sparse) > _SHARE))
    each = np.where(few, np.maximum(each, bounds if n < PASSES_OF_FEW_SIGNS else sampled), each)
    upper, freely = each.sum(axis=0), _degrees_of_sum(each, freedom)
    own = np.clip(sampled.sum(axis=0), upper / 2, upper)
    with np.errstate(divide="ignore"):
        own_degrees = np.minimum(2 / ((2 / (n - 1) + 12 / n) * _concentration(each)), freely)
    chosen = [
        (u, d) if early or _half(u, d) <= _half(v, e) else (v, e)
        for u, d, v, e, early in zip(
            upper.tolist(),
            freely.tolist(),
            own.tolist(),
            own_degrees.tolist(),
            (few.any(axis=0) & (n < PASSES_OF_FEW_SIGNS)).tolist(),
            strict=True,
        )
    ]
    values = np.abs(facts.sums.sum(axis=0)) / n
    arithmetic = NOISE_OF_TRACES * noise * np.maximum(np.maximum(values, np.sqrt(each).sum(axis=0)), floors)
    unknown = (n < LEAST_PASSES) & (_concentration(each) > ONE_GROUP)
    return [
        None if nothing else (math.sqrt(v / n), d, rounding)
        for (v, d), rounding, nothing in zip(
            chosen, arithmetic.tolist(), np.broadcast_to(unknown, len(chosen)).tolist(), strict=True
        )
    ]


def _half(variance: float, degrees: float) -> float:
    """Half of the 95 % interval, in units that do not matter."""
    return math.sqrt(variance) * student_t_quantile(0.975, max(degrees, 1.0))


def _share_of(variances: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Which part of the groups' sum the chosen ones are, shape (B,); 0 of nothing."""
    whole = variances.sum(axis=0)
    return np.asarray((variances * chosen).sum(axis=0) / np.where(whole > 0, whole, 1.0))


def _concentration(variances: np.ndarray) -> np.ndarray:
    """sum v_t^2 / (sum v_t)^2 over the groups, shape (B,): 1 over as many groups as matter; 0 of nothing."""
    return np.asarray((_shares(variances) ** 2).sum(axis=0))


def _degrees_of_sum(variances: np.ndarray, freedom: np.ndarray) -> np.ndarray:
    """Degrees of freedom of a sum of variances with these each (Satterthwaite 1946), shape (B,)."""
    square = (_shares(variances) ** 2 / freedom).sum(axis=0)
    return np.asarray(np.where(square > 0, 1.0 / np.where(square > 0, square, 1.0), math.inf))


def _shares(variances: np.ndarray) -> np.ndarray:
    """v_t / sum v_t: squares of these are none of 0 and infinity, as those of tiny and huge variances are."""
    whole = variances.sum(axis=0)
    return np.asarray(variances / np.where(whole > 0, whole, 1.0))
