"""Intervals of shares of the spectrum, and of means over it, by the law of random vectors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from curvtool.estimators.accuracy.noise import NOISE_OF_PAIRS
from curvtool.linalg.intervals import beta_probability, student_t_quantile


def rounding_of_nodes(noise: float, scale: float, least: float = 0.0) -> float:
    """How far rounding moves an eigenvalue that Lanczos sees, in a matrix whose largest magnitude is `scale`, and whose
    numbers below `least` are rounded to zero."""
    return max(NOISE_OF_PAIRS * noise, 1e-14) * scale + least


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
