"""The noise of products, and a number from random probes with what it may be off by."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from curvtool.linalg.intervals import student_t_quantile

if TYPE_CHECKING:
    from curvtool.operators.base import LinearOperator

NOISE_OF_PAIRS = 3  # an eigenpair's noise in units of a random vector's, which is the one measured; up to 2.3 were seen
NOISE_OF_ENTRIES = 6  # an entry's, of a row or of a mean row, likewise: the worst of all entries; up to 3.7 were seen
NOISE_OF_TRACES = 10  # a trace's noise in units of a random vector's, which is the one measured; up to 8.3 were seen


def noise_of(operator: LinearOperator, given: float | None = None) -> float:
    """The relative error of the operator's products, ||fl(A v) - A v|| / ||A v|| for a random v.

    Args:
        operator: whose products they are.
        given: as measured by the caller; None: as the operator knows it (`LinearOperator.noise`).

    Returns:
        Never below the unit of rounding of the vectors' dtype.
    """
    return max(operator.noise if given is None else given, operator.space.eps)


def least_of(operator: LinearOperator, scale: float) -> float:
    """The absolute error that any eigenvalue or entry may have: what is smaller is rounded to zero.

    The smallest normal number of the vectors' dtype. Where all products are zero a relative error says nothing: then
    what the same products are in float64 (`LinearOperator.vanished`), where that is larger.

    Args:
        operator: the matrix.
        scale: the largest magnitude that was seen of it.
    """
    tiny = float(torch.finfo(operator.space.dtype).tiny)
    return tiny if scale > 0.0 else max(tiny, operator.vanished())


@dataclass(frozen=True)
class Estimate:
    """A number from random probes, with what it may be off by.

    Attributes:
        value: the estimate.
        stderr: its standard error over the probes; None where it is not known (a single probe).
        degrees: degrees of freedom of that standard error; infinite where nothing random is left.
        arithmetic: what rounding may add, not random.
    """

    value: float
    stderr: float | None
    degrees: float = math.inf
    arithmetic: float = 0.0

    def half_width(self, error_probability: float = 0.05) -> float | None:
        """Half of the interval at this error probability: Student's t over the probes, plus the arithmetic."""
        if self.stderr is None:
            return None
        if self.stderr == 0.0:
            return self.arithmetic
        return student_t_quantile(1.0 - error_probability / 2, max(self.degrees, 1.0)) * self.stderr + self.arithmetic

    def interval(self, error_probability: float = 0.05) -> tuple[float, float] | None:
        """Lower and upper end; None where the standard error is not known."""
        half = self.half_width(error_probability)
        return None if half is None else (self.value - half, self.value + half)
