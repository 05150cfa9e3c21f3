"""Confidence intervals that stay valid though one looks again and stops when they are narrow enough."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch


def student_t_quantile(probability: float, degrees: float) -> float:
    """The quantile of Student's t, for `probability` above one half and `degrees` >= 1.

    Hill 1970 (Algorithm 396, Comm. ACM 13(10), 619-620), which is good to six digits for two degrees and more; two
    Newton steps on the distribution function are not needed at the accuracy of an interval.
    """
    tail = 2.0 * (1.0 - probability)  # two-sided
    if math.isinf(degrees) or degrees > 1e7:
        return NormalDist().inv_cdf(probability)
    if degrees < 1.5:  # Cauchy, conservative up to two degrees
        return 1.0 / math.tan(tail * math.pi / 2)
    n = degrees
    a = 1.0 / (n - 0.5)
    b = (48.0 / a) / a
    c = ((20700.0 * a / b - 98.0) * a - 16.0) * a + 96.36
    d = ((94.5 / (b + c) - 3.0) / b + 1.0) * math.sqrt(a * math.pi / 2) * n
    y = (d * tail) ** (2.0 / n)
    if y > 0.05 + a:
        x = NormalDist().inv_cdf(tail / 2)
        y = x * x
        if n < 5:
            c += 0.3 * (n - 4.5) * (x + 0.6)
        c = (((0.05 * d * x - 5.0) * x - 7.0) * x - 2.0) * x + b + c
        y = (((((0.4 * y + 6.3) * y + 36.0) * y + 94.5) / c - y - 3.0) / b + 1.0) * x
        y = math.expm1(a * y * y)
    else:
        y = ((1.0 / (((n + 6.0) / (n * y) - 0.089 * d - 0.822) * (n + 2.0) * 3.0) + 0.5 / (n + 4.0)) * y - 1.0) * (
            n + 1.0
        ) / (n + 2.0) + 1.0 / y
    return math.sqrt(n * y)


def chi_square_quantile(probability: float, degrees: np.ndarray) -> np.ndarray:
    """Quantiles of chi-square over its degrees, chi2_n / n, for each n > 0 of `degrees`; 1 where n is infinite.

    Wilson and Hilferty 1931 above 1e4 degrees; below, bisection of the regularised incomplete gamma function.
    """
    n = np.asarray(degrees, dtype=float)
    z = NormalDist().inv_cdf(probability)
    with np.errstate(divide="ignore", invalid="ignore"):
        smooth = np.clip(1 - 2 / (9 * n) + z * np.sqrt(2 / (9 * n)), 0.0, None) ** 3
    small = n < 1e4
    if not small.any():
        return smooth
    half = torch.from_numpy(n[small] / 2)
    low, high = torch.full_like(half, -700.0), torch.log(half + 10 + 10 * half.sqrt() + 4 * abs(z) ** 2)
    for _ in range(60):
        middle = (low + high) / 2
        below = torch.special.gammainc(half, middle.exp()) < probability
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    found = smooth.copy()
    found[small] = (high.exp() / half).numpy()
    return found


@dataclass(frozen=True)
class Interval:
    """An estimate with its uncertainty.

    Attributes:
        value: the estimate.
        stderr: its standard error.
        half_width: half the width of the interval at the level of the look it was taken at.
        degrees: degrees of freedom of the standard error.
        arithmetic: the part of the half width that rounding takes.
    """

    value: float
    stderr: float
    half_width: float
    degrees: float
    arithmetic: float = 0.0

    @property
    def bounds(self) -> tuple[float, float]:
        """Lower and upper end."""
        return self.value - self.half_width, self.value + self.half_width


def look_error(look: int, alpha: float = 0.05) -> float:
    """The error probability spent on the `look`-th look (from 0), summing to `alpha` over all looks.

    Three tenths on the pilot, more than half on the second look, which is planned to be the last, and the rest halved
    from look to look: by the union bound the chance that any of the intervals misses is at most alpha.
    """
    return alpha * (0.3, 0.55)[look] if look < 2 else alpha * 0.075 * 0.5 ** (look - 2)


def beta_probability(points: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """P(W <= x) for W ~ Beta(a, b) at points x strictly between 0 and 1; a, b >= 1/2.

    Peizer & Pratt 1968 (J. Amer. Statist. Assoc. 63, 1416-1456) in closed form. Shapes below 3 are first raised by the
    recurrences I_x(a, b) = I_x(a + 1, b) + x^a (1 - x)^b / (a B(a, b)) and its mirror image. The smaller of the two
    tails is then right to 3 % of itself between 1 and 99 %.
    """
    x, a, b = (np.array(each, dtype=np.float64) for each in np.broadcast_arrays(points, a, b))
    added = np.zeros_like(x)
    for _ in range(3):
        for shape, sign in ((a, 1.0), (b, -1.0)):
            small = shape < _SMALL_SHAPE
            if small.any():
                p, q = a[small], b[small]
                logs = p * np.log(x[small]) + q * np.log1p(-x[small]) + _log_gamma(p + q) - _log_gamma(p)
                added[small] += sign * np.exp(logs - _log_gamma(q)) / shape[small]
                shape[small] += 1.0
    y, total = 1.0 - x, a + b
    distance = b - 1 / 3 - (total - 2 / 3) * y + 0.02 * (x / b - y / a + (x - 0.5) / total)
    bent = x * _bent((b - 0.5) / ((total - 1) * y)) + y * _bent((a - 0.5) / ((total - 1) * x))
    z = distance * np.sqrt(bent / ((total - 5 / 6) * x * y))
    return np.clip(_normal(z) + added, 0.0, 1.0)


_SMALL_SHAPE = 3.0
_log_gamma = np.vectorize(math.lgamma, otypes=[np.float64])
_normal = np.vectorize(NormalDist().cdf, otypes=[np.float64])


def _bent(x: np.ndarray) -> np.ndarray:
    """2 (1 - x + x log x) / (1 - x)^2, which is 1 at 1: one more than Peizer and Pratt's function, so that nothing
    cancels far from there."""
    away = 1.0 - x
    near = np.abs(away) < 1e-4
    return np.where(near, 1.0 + away / 3, 2 * (away + x * np.log(x)) / np.where(near, 1.0, away) ** 2)
