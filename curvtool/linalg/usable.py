"""Numbers that products gave: finite ones, whose squares are none of 0 and infinity."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike

from curvtool.errors import not_finite, not_in_range

LEAST, MOST = 1e-150, 1e150  # the squares of what is beyond leave float64, or lose digits


def require_finite(numbers: ArrayLike, where: str) -> None:
    """Refuses NaN and infinity.

    Args:
        numbers: what products gave.
        where: what they are of, in words.

    Raises:
        DerivativeError: CT054.
    """
    if not np.isfinite(numbers).all():
        raise not_finite(where)


def require_usable(numbers: ArrayLike, where: str) -> None:
    """Refuses what no error can be stated of.

    Args:
        numbers: inner products, norms or entries of products with vectors of length 1 or signs, on the host.
        where: what they are of, in words.

    Raises:
        DerivativeError: CT054, one is NaN or infinite, or all are so small or one so large that squares are lost.
    """
    require_finite(numbers, where)
    largest = float(np.abs(np.asarray(numbers)).max(initial=0.0))
    if largest > MOST or 0.0 < largest < LEAST:
        raise not_in_range(where, largest, LEAST, MOST)


def powers_of_two(sizes: torch.Tensor) -> torch.Tensor:
    """A power of two next to each size, by which it is divided without rounding; 1 where it is 0 or not finite."""
    exponents = torch.frexp(sizes)[1].clamp(-125, 126) if sizes.dtype == torch.float32 else torch.frexp(sizes)[1]
    units = torch.ldexp(torch.ones_like(sizes), exponents)
    return torch.where((sizes > 0) & torch.isfinite(sizes) & torch.isfinite(units), units, torch.ones_like(sizes))
