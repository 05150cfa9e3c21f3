"""Student's t: how likely so large a value is, and which value is so likely; without NumPy: reports load fast."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

_NORMAL = 1e7  # degrees of freedom above which it is the normal distribution to seven digits
_TINY = 1e-300


def two_sided(t: float, degrees: float) -> float:
    """P(|T| >= |t|) = I_x(degrees / 2, 1 / 2) at x = degrees / (degrees + t^2), the incomplete beta function.

    By the continued fraction of DLMF 8.17.22, on the side of its argument where it converges fast.

    Args:
        t: any number.
        degrees: above zero, fractions allowed; infinite for the normal distribution.
    """
    if math.isinf(t):
        return 0.0
    if degrees > _NORMAL:
        return math.erfc(abs(t) / math.sqrt(2))
    a, b = degrees / 2, 0.5
    rest = t * t / (degrees + t * t)  # 1 - x, without loss where t is small
    x = degrees / (degrees + t * t)
    if rest == 0.0:
        return 1.0
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(rest)
    if x < (a + 1) / (a + b + 2):
        return math.exp(log_front) * _fraction(x, a, b) / a
    return 1.0 - math.exp(log_front) * _fraction(rest, b, a) / b


@lru_cache(maxsize=4096)
def quantile(probability: float, degrees: float) -> float:
    """The t that |T| exceeds with this probability, between 0 and 1; 1.96 for 0.05 and infinite degrees."""
    if degrees > _NORMAL:
        return -NormalDist().inv_cdf(probability / 2)
    low, high = 0.0, 1.0
    while two_sided(high, degrees) > probability:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if two_sided(middle, degrees) > probability else (low, middle)
    return high


def _fraction(x: float, a: float, b: float) -> float:
    """The continued fraction by the modified method of Lentz (1976)."""
    c, d = 1.0, 1.0 / _off_zero(1.0 - (a + b) * x / (a + 1))
    found = d
    for m in range(1, 400):
        for factor in (m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
                       -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))):  # fmt: skip
            d, c = 1.0 / _off_zero(1.0 + factor * d), _off_zero(1.0 + factor / c)
            found *= c * d
        if abs(c * d - 1.0) < 1e-15:
            break
    return found


def _off_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
