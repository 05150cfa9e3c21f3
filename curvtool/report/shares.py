"""Shares of the eigenvalues side by side."""

from __future__ import annotations

import math
from statistics import NormalDist

from curvtool.report.analyses import Share

_NORMAL = NormalDist()
_ROUNDING = 1e-9  # of a mass
_TWO_SIDED = _NORMAL.inv_cdf(0.975)  # of the shares' own intervals


def p_value_of(first: Share, other: Share) -> float:
    """The chance, two-sided, that the probes alone put so much between two shares.

    What the steps leave open is not random: between the two ranges [least, most] lies a gap, or nothing differs. The
    gap is compared with the sides of the intervals that are turned to it, from `most` to `high` and from `low` to
    `least`, added in squares (Zou & Donner, Statist. Med. 27, 2008). A side is never shorter than the standard error
    makes it: an interval of whole counts may be. Of two exact shares it is 0 or 1.
    """
    lower, upper = (first, other) if first.most <= other.least else (other, first)
    gap = upper.least - lower.most
    if gap <= _ROUNDING:
        return 1.0
    above = max((lower.high - lower.most) / _TWO_SIDED, lower.stderr)
    below = max((upper.least - upper.low) / _TWO_SIDED, upper.stderr)
    spread = math.hypot(above, below)
    return 2.0 * _NORMAL.cdf(-gap / spread) if spread else 0.0
