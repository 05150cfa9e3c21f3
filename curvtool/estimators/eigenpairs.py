"""What an eigenvalue solver returns: values and vectors, each with its error."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import get_args

import torch

from curvtool.estimators.accuracy.population import OverData
from curvtool.estimators.cost import Cost
from curvtool.vocabulary import BoundKind, EigenvalueMethod, Storage, Unmet, Which

METHODS: tuple[str, ...] = get_args(EigenvalueMethod)
_LAST_DIGITS = 1e-9  # of the tolerance: an error as large as it meets it
MARGIN = 0.25  # of the residual: no smaller error is estimated, however wide the gap seems
HIDDEN = 13  # times the residual, by which a nearby eigenvalue farther out may be missed: in the vector found it stands
# as it stood in the random start, and of two directions a random start has less than 1/13 of one in 5 % of all cases
# (the ratio is Cauchy distributed). The residual is at least that share of their distance
EMERGED = 0.1  # of the tolerance: an eigenvalue farther out than that would have shown in a fresh start


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
        settled: whether the solver was through with it: the tolerances are met, or its residual is rounding alone.
        over_data: what another sample of as many data would change, and where the population's eigenvalue lies; None
            where the data were not told apart.
        rounding: what the arithmetic alone may shift an eigenvalue by, as `accuracy.pairs` makes it: relative to the
            largest magnitude of the spectrum, for a small eigenvalue's products carry that too.
        separation: the distance from theta to all others, where the gap is not.
        tolerance: what its errors are held against.
        to_outer: the distance to the outermost other value found that lies within `EMERGED` of the tolerance from it.
    """

    value: float
    residual_norm: float
    gap: float
    settled: bool
    over_data: OverData | None = None
    rounding: float = 0.0
    separation: float | None = None
    tolerance: Tolerance = Tolerance(0.0, math.inf)
    to_outer: float = 0.0

    @property
    def converged(self) -> bool:
        """Whether the solver was through with it and its errors meet the tolerances.

        A value that rounding makes indistinguishable from 0 counts as one: no relative error of it is ever small.
        """
        return self.unmet is None

    @property
    def unmet(self) -> Unmet | None:
        """Why it did not converge: `rounding`, which no product lowers; `rank`, the error is within the tolerance but
        another eigenvalue may still take its place; `products`, of which there were too few. None where it did."""
        is_near = self._is_within(self.tolerance)
        if not self.settled:
            return "rank" if is_near else "products"
        return None if is_near or abs(self.value) <= self.error_bound else "rounding"

    @property
    def data_stderr(self) -> float | None:
        """Standard error of theta over the data; None where the data were not told apart."""
        return None if self.over_data is None else self.over_data.stderr

    @property
    def error_bound(self) -> float:
        """How far theta may be from the eigenvalue of its rank: the solver's stated error plus the arithmetic's.

        The arithmetic shifts a value to first order, so its error is added, and is not squared over the gap.
        """
        return self._with_rounding(self.stated_error)

    @property
    def stated_error(self) -> float:
        """Of the solver: the residual norm r, which bounds |theta - lambda| for the nearest eigenvalue lambda and
        supposes nothing; what `solver_error` estimates, where r is not within the tolerance.

        An eigenvalue farther out that lies very near to lambda can stay hidden behind it: up to `HIDDEN` r are stated
        for that, as far as `EMERGED` of the tolerance. Where one is hidden behind another value found, lambda's rank
        belongs to that: so as much is stated as lies between the two. A full check has seen all neighbours, and
        `solver_error` is enough.
        """
        if self.separation is not None:
            return self.solver_error
        r, enough = self.residual_norm, self.tolerance.of(self.value)
        return max(self.solver_error, min(r, enough), min(HIDDEN * r, EMERGED * enough), self.to_outer)

    @property
    def solver_error(self) -> float:
        """What a search is stopped by: min(r, r^2 / gap), not below a quarter of r.

        A Ritz vector that mixes two eigenvectors of near eigenvalues is farther off than r^2 / gap says while the
        second one has not emerged.
        """
        return max(self._from_residual, MARGIN * self.residual_norm)

    @property
    def bound_kind(self) -> BoundKind:
        """`linear` (r, or up to `HIDDEN` r: supposes nothing about the rest of the spectrum), `quadratic` (r^2 / gap:
        supposes that no eigenvalue unseen so far lies in the gap; Kato 1949, Temple 1928), or `noise` (the rounding is
        above both)."""
        if self.residual_norm <= self.rounding or self.stated_error < self.rounding:
            return "noise"
        return "linear" if self.stated_error >= self.residual_norm else "quadratic"

    def _with_rounding(self, error: float) -> float:
        """The solver's error and the arithmetic's; a residual no larger than that is the arithmetic's own."""
        return self.rounding + (error if self.residual_norm > self.rounding else 0.0)

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
        if self.residual_norm <= floor and self.error_bound > tolerance.of(self.value):
            return replace(self, rounding=max(self.rounding, floor))
        return self

    def meets(self, tolerance: Tolerance, floor: float) -> bool:
        """Whether the errors are within the tolerances, or below the floor of rounding."""
        return self.residual_norm <= floor or self._is_within(tolerance, floor)

    def _is_within(self, tolerance: Tolerance, floor: float = 0.0) -> bool:
        if self._with_rounding(self.solver_error) > max(tolerance.of(self.value) * (1 + _LAST_DIGITS), floor):
            return False
        wanted = tolerance.vector_rtol
        return wanted is None or (self.vector_error is not None and self.vector_error <= wanted)


@dataclass(frozen=True)
class Certificate:
    """What a random start excludes: beyond the limits every eigenvalue is listed, to within its error or the tolerance.

    Attributes:
        above: no eigenvalue above it was missed; None where the largest were not looked for, or nothing can be said.
        below: no eigenvalue below it was missed; likewise.
        failure: the probability, over the random starts, that this is wrong.
        check_hvps: the products it took, beside those that the search made anyway.
    """

    above: float | None
    below: float | None
    failure: float
    check_hvps: float


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
    certificate: beyond what no eigenvalue was missed; None where no start was random.
    excluded: by end (+1 upper, -1 lower), beyond what the search's own random start excludes any eigenvalue.
    scale: the largest magnitude of a Ritz value on the way: a lower estimate of ||A||.
    closed: whether the Krylov space closed before it was the whole one, which shows multiple eigenvalues.
    basis: where the basis lay: `device`, `host` or `bfloat16`.
    cost: products and time.
    history: products made, the first value and its error bound, as the search went on.
    """

    eigenvalues: tuple[Eigenvalue, ...]
    vectors: torch.Tensor
    which: Which
    method: EigenvalueMethod
    converged: bool
    check_discrepancy: float | None
    cost: Cost
    num_missed: int | None = None
    scale: float = 0.0
    closed: bool = False
    basis: Storage = "device"
    history: tuple[tuple[float, float, float], ...] = ()
    certificate: Certificate | None = None
    excluded: dict[float, float] = field(default_factory=dict)

    @property
    def values(self) -> list[float]:
        """The values alone."""
        return [pair.value for pair in self.eigenvalues]

    @property
    def settled(self) -> bool:
        """Whether the solver was through with every one: more products would not tell more."""
        return all(pair.settled for pair in self.eigenvalues)
