"""Errors of eigenvalues: solver and arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from curvtool.estimators.accuracy.noise import NOISE_OF_PAIRS
from curvtool.estimators.eigenpairs import Eigenvalue, Tolerance

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
        least: the absolute error that any eigenvalue may have; see `least_of`.
    """

    eps: float
    noise: float
    tolerance: Tolerance
    discrepancy: float = 0.0
    shift: float = 0.0
    coarseness: float = 0.0
    least: float = 0.0

    def rounding(self, scale: float) -> float:
        """What the arithmetic alone does to any eigenvalue of a matrix of that largest magnitude."""
        return max(ROUNDING * self.eps, NOISE_OF_PAIRS * self.noise) * scale + self.least

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
            done: whether it may count as settled.
        """
        rounding = max(self.rounding(scale), self.shift)
        coarse = self.coarseness * scale
        pair = Eigenvalue(
            value=value,
            residual_norm=max(math.hypot(residual, self.discrepancy), rounding),
            gap=max(gap - coarse, 0.0),
            settled=False,
            rounding=rounding,
            separation=separation,
            tolerance=self.tolerance,
        ).at_rounding(self.tolerance, self.floor(scale))
        done = done and pair.meets(self.tolerance, self.floor(scale))
        return replace(pair, settled=done, rounding=max(pair.rounding, coarse))
