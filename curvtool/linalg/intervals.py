"""Confidence intervals that stay valid though one looks again and stops when they are narrow enough."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist


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
