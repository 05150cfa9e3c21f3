"""Errors of eigenvalues: solver and arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from curvtool.estimators.accuracy.noise import NOISE_OF_PAIRS
from curvtool.estimators.eigenpairs import EMERGED, Eigenvalue, Tolerance
from curvtool.vocabulary import Which

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


def in_turn(found: Sequence[Eigenvalue], which: Which, k: int) -> tuple[Eigenvalue, ...]:
    """The pairs, each with its distance to the outermost of those before it that it may have to make room for.

    Args:
        found: the pairs in the order of the report.
        which: `la`, `sa`, `lm` or `be`.
        k: pairs at each end for `be`.
    """
    values = np.array([pair.value for pair in found])
    outward = np.abs(values) if which == "lm" else -values if which == "sa" else values.copy()
    if which == "be":
        outward[k:] *= -1  # the lower end; each end has ranks of its own
    told = []
    for place, pair in enumerate(found):
        own_end = slice(k, None) if which == "be" and place >= k else slice(0, k if which == "be" else None)
        ahead = outward[own_end] - outward[place]
        hides = ahead[ahead <= EMERGED * pair.tolerance.of(pair.value)]
        to_outer = float(hides.max())  # its own distance, 0, is among them
        told.append(replace(pair, to_outer=to_outer) if to_outer > 0.0 else pair)
    return tuple(told)
