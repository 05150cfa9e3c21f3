"""The only maker of errors: how far a number may lie from the one that was asked for, and why.

Four sources are told apart. *Solver*: an iteration was stopped. *Probes*: random vectors were drawn; a standard error
with its degrees of freedom. *Data*: another sample of as many data would give another number. *Arithmetic*: the
products are rounded. Python functions, the monitor, commands, reports and comparisons take what is made here and add
nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from curvtool.estimators.eigenpairs import Eigenvalue, Tolerance
from curvtool.linalg.intervals import student_t_quantile

if TYPE_CHECKING:
    from curvtool.operators.base import LinearOperator

NOISE_OF_PAIRS = 3  # an eigenpair's noise in units of a random vector's, which is the one measured; up to 2.3 were seen
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


# eigenvalues

ROUNDING = 8  # epsilons of the largest magnitude, by which rounding was seen to shift any eigenvalue
_AT_FLOOR = 4  # times the arithmetic's error: a residual below it can hardly fall further
BFLOAT16 = 2.0**-8  # by how much the norm of a vector of few large coordinates changes at most, rounded to it


@dataclass(frozen=True)
class PairErrors:
    """Makes the eigenvalues of one search with their errors; the only place where these are made.

    Attributes:
        eps: the unit of rounding of the vectors.
        noise: the relative error of a product; see `noise_of`.
        tolerance: what the errors are held against.
        discrepancy: norm of what a closing product had beyond the residuals: it joins each residual.
        shift: what a closing product showed the values to be off by; first order, it joins the arithmetic's error.
        coarseness: of the stored vectors, relative.
    """

    eps: float
    noise: float
    tolerance: Tolerance
    discrepancy: float = 0.0
    shift: float = 0.0
    coarseness: float = 0.0

    def rounding(self, scale: float) -> float:
        """What the arithmetic alone does to any eigenvalue of a matrix of that largest magnitude."""
        return max(ROUNDING * self.eps, NOISE_OF_PAIRS * self.noise) * scale

    def floor(self, scale: float) -> float:
        """A residual below it can hardly fall further, and the eigenvalue counts as found."""
        return _AT_FLOOR * self.rounding(scale)

    def eigenvalue(
        self,
        value: float,
        residual: float,
        gap: float,
        scale: float,
        *,
        separation: float | None = None,
        done: bool = True,
    ) -> Eigenvalue:
        """One eigenvalue.

        Args:
            value: the Ritz value.
            residual: its residual norm.
            gap: to the rest of the spectrum; 0 where nothing is known.
            scale: the largest magnitude of the spectrum that was seen.
            separation: to all others, where the gap is not.
            done: whether it may count as converged.
        """
        rounding = max(self.rounding(scale), self.shift)
        coarse = self.coarseness * scale
        pair = Eigenvalue(
            value=value,
            residual_norm=max(math.hypot(residual, self.discrepancy), rounding),
            gap=max(gap - coarse, 0.0),
            converged=False,
            rounding=rounding,
            separation=separation,
        ).at_rounding(self.tolerance, self.floor(scale))
        done = done and pair.meets(self.tolerance, self.floor(scale))
        return replace(pair, converged=done, rounding=max(pair.rounding, coarse))


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
