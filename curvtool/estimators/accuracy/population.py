"""What another sample of as many data would change, and where the population's eigenvalue lies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from curvtool.linalg.intervals import student_t_quantile
from curvtool.linalg.ritz import RitzPairs

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
        if stderr == 0.0:  # as of a matrix of zeros: other data need not give the same
            reason = "all parts of the data gave the same number, which says nothing of other data"
            found.append(OverData(0.0, float(shift), reason=reason))
            continue
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
