"""What an eigenvalue solver returns: values and vectors, each with its error."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch

from curvtool.estimators.accuracy import OverData
from curvtool.estimators.cost import Cost
from curvtool.linalg.ritz import Which
from curvtool.linalg.space import Storage

Method = Literal["lanczos", "power"]
BoundKind = Literal["linear", "quadratic", "noise"]
METHODS: tuple[str, ...] = get_args(Method)
ROUNDING = 8  # epsilons of the largest magnitude, by which rounding was seen to shift any eigenvalue
ROUNDING_STEPS = 32  # likewise; a residual below it can hardly fall further, and the eigenvalue counts as found


@dataclass(frozen=True)
class Tolerance:
    """Attributes:
    rtol: error of an eigenvalue over its magnitude.
    atol: error of an eigenvalue that is enough however small it is.
    vector_rtol: error of an eigenvector (sine of its angle); None: whatever it is.
    """

    rtol: float
    atol: float = 0.0
    vector_rtol: float | None = None

    def of(self, value: float) -> float:
        """The error that an eigenvalue may have."""
        return max(self.rtol * abs(value), self.atol)


@dataclass(frozen=True)
class Eigenvalue:
    """One eigenvalue.

    Attributes:
        value: the Ritz value theta.
        residual_norm: ||A y - theta y|| of its unit vector: the solver's estimate and what the closing check found
            beyond it, combined; or the true one after a full check.
        gap: estimate of the distance from theta to the rest of the spectrum; 0 where nothing is known of it. After a
            full check to that beside all pairs found, and the residual norm is that of theta's whole cluster.
        converged: whether the tolerances were met when the solver stopped.
        over_data: what another sample of as many data would change, and where the population's eigenvalue lies; None
            where the data were not told apart.
        rounding: what rounding alone may shift an eigenvalue by, eight epsilons of the precision times the largest
            magnitude of the spectrum, or a few times that where nearer was not reached: however small the eigenvalue,
            its products carry that.
        separation: the distance from theta to all others, where the gap is not.
        margin: a part of the residual norm, within the tolerance, below which no error is claimed.
    """

    value: float
    residual_norm: float
    gap: float
    converged: bool
    over_data: OverData | None = None
    rounding: float = 0.0
    separation: float | None = None
    margin: float = 0.0

    @property
    def data_stderr(self) -> float | None:
        """Standard error of theta over the data; None where the data were not told apart."""
        return None if self.over_data is None else self.over_data.stderr

    @property
    def error_bound(self) -> float:
        """Estimate of |theta - lambda| for the nearest eigenvalue lambda: min(r, r^2 / gap), not below the rounding.

        Nor below the margin, a part of the residual: a Ritz vector that mixes two eigenvectors of near eigenvalues is
        farther off than r^2 / gap says while the second one has not emerged.
        """
        return max(self._from_residual, self.rounding, self.margin)

    @property
    def _tested(self) -> float:
        """What the tolerance is compared with."""
        return max(self._from_residual, self.rounding)

    @property
    def bound_kind(self) -> BoundKind:
        """`linear` (r: supposes nothing about the rest of the spectrum), `quadratic` (r^2 / gap: supposes that no
        eigenvalue unseen so far lies in the gap; Kato 1949, Temple 1928), or `noise` (the rounding is above both)."""
        if self._from_residual < self.rounding:
            return "noise"
        return "quadratic" if self.gap > self.residual_norm else "linear"

    @property
    def _from_residual(self) -> float:
        return self.residual_norm**2 / self.gap if self.gap > self.residual_norm else self.residual_norm

    @property
    def vector_error(self) -> float | None:
        """Estimate of the sine of the angle between y and the eigenvector, r / gap, the gap to all other eigenvalues;
        None where none was seen."""
        gap = self.gap if self.separation is None else self.separation
        return self.residual_norm / gap if gap > self.residual_norm else None

    @property
    def relative_residual(self) -> float:
        """residual_norm / |value|; infinite at 0."""
        return self.residual_norm / abs(self.value) if self.value else math.inf

    def at_rounding(self, tolerance: Tolerance, floor: float) -> Eigenvalue:
        """The pair; where its residual is down at the floor of rounding with the tolerance still unmet, no less than
        the floor is claimed: nearby eigenvalues cannot be told apart there, and no gap is known."""
        if self.residual_norm <= floor and self._tested > tolerance.of(self.value):
            return replace(self, rounding=max(self.rounding, floor))
        return self

    def meets(self, tolerance: Tolerance, floor: float) -> bool:
        """Whether the errors are within the tolerances, or below the floor of rounding."""
        if self.residual_norm <= floor:
            return True
        if self._tested > max(tolerance.of(self.value), floor):
            return False
        wanted = tolerance.vector_rtol
        return wanted is None or (self.vector_error is not None and self.vector_error <= wanted)


@dataclass(frozen=True)
class EigenvaluesResult:
    """Attributes:
    eigenvalues: in the order of `which`: descending for `la`, `be`, by falling magnitude for `lm`, ascending for `sa`.
    vectors: their unit vectors, shape (k, P), on the operator's device.
    which: `la`, `sa`, `lm` or `be`.
    method: `lanczos` or `power`.
    converged: whether every eigenvalue is.
    check_discrepancy: norm of what the closing product found beyond the residuals that the solver expected; None where
        the check was not reached.
    num_missed: pairs that a full check found beyond the solver's; None where none was made.
    scale: the largest magnitude of a Ritz value on the way: a lower estimate of ||A||.
    closed: whether the Krylov space closed before it was the whole one, which shows multiple eigenvalues.
    basis: where the basis lay: `device`, `host` or `bfloat16`.
    cost: products and time.
    history: products made, the first value and its error bound, as the search went on.
    """

    eigenvalues: tuple[Eigenvalue, ...]
    vectors: torch.Tensor
    which: Which
    method: Method
    converged: bool
    check_discrepancy: float | None
    cost: Cost
    num_missed: int | None = None
    scale: float = 0.0
    closed: bool = False
    basis: Storage = "device"
    history: tuple[tuple[float, float, float], ...] = ()

    @property
    def values(self) -> list[float]:
        """The values alone."""
        return [pair.value for pair in self.eigenvalues]
