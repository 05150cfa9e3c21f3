"""Extreme eigenvalues by Lanczos: when to stop, and the closing check."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from curvtool.errors import STOPPING, Interrupted, cause_of
from curvtool.estimators.accuracy.noise import least_of
from curvtool.estimators.accuracy.pairs import BFLOAT16, PairErrors, in_turn
from curvtool.estimators.accuracy.population import over_data
from curvtool.estimators.cost import Meter
from curvtool.estimators.eigenpairs import Certificate, Eigenvalue, EigenvaluesResult
from curvtool.estimators.missed_eigenvalues import MissedEigenvalues
from curvtool.estimators.observer import Observer
from curvtool.estimators.request import Request, basis_size, storage_for
from curvtool.estimators.steering import PASSES_IN_A_ROW, DeflatedPairs, Trend, keep_for, start_for
from curvtool.linalg.lanczos import Lanczos
from curvtool.linalg.ritz import RitzPairs
from curvtool.operators.base import LinearOperator

# A search ends when the solver's error is below this share of the tolerance. In a spectrum without gaps the error
# falls slowly, and a missed pair may still emerge; where there is a gap, the smaller error costs a product or two. A
# search that ended at the whole tolerance missed a pair in one run of 34 on small networks and spectra without outliers
_WELL_WITHIN = 0.08


def by_lanczos(
    operator: LinearOperator, request: Request, observer: Observer, *, close: bool = True, look: bool = True
) -> EigenvaluesResult:
    """See `eigenvalues`, which checks the arguments.

    Args:
        operator: the matrix.
        request: what is asked.
        observer: hears progress.
        close: whether a closing product is made.
        look: whether fresh starts look for missed eigenvalues.
    """
    run = partial(Search, operator, request, observer)
    return observer.ledger.remembered("Lanczos", operator, lambda: run().result_of_all(close, look))


class Search:
    """One search: its Krylov space, when it stops, and what it gives.

    Args:
        operator: the matrix.
        request: what is asked.
        observer: hears progress.
    """

    def __init__(self, operator: LinearOperator, request: Request, observer: Observer) -> None:
        self.operator, self.request, self.observer = operator, request, observer
        self.meter = Meter(operator)
        space, deflated = operator.space, request.deflated
        self.deflated_pairs = (
            DeflatedPairs.of(operator, deflated) if deflated is not None and request.couplings else None
        )
        self.storage = storage_for(space, request)
        self.lanczos = Lanczos(
            operator.matvec_in_parts,
            space,
            request.max_basis or basis_size(space, request),
            (request.seed, 1),
            start=start_for(operator, request),
            block_size=request.block_size,
            deflated=deflated,
            storage=self.storage,
            sketch=deflated is None,
        )
        self.errors = PairErrors(
            space.eps,
            request.noise,
            request.tolerance,
            coarseness=BFLOAT16 if self.storage == "bfloat16" else 0.0,
            least=least_of(operator, 1.0),
        )
        self.shift = 0.0  # error of the Ritz values, as one product in float64 shows it
        self.pairs: RitzPairs | None = None
        self.in_a_row = 0
        self.last: tuple[Eigenvalue, ...] | None = None
        self.history: list[tuple[float, float, float]] = []
        self.is_well_within = False
        self.missed = MissedEigenvalues(self)
        observer.ledger.resume("basis", operator, self)

    def state(self) -> dict[str, Any]:
        """The Krylov space, what its last looks showed, and the fresh start at work."""
        return {
            "lanczos": self.lanczos.state(), "in_a_row": self.in_a_row, "last": self.last, "storage": self.storage,
            "history": [list(each) for each in self.history], "well_within": self.is_well_within,
            **self.missed.state(),
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        """Puts it back."""
        self.lanczos.restore(state["lanczos"])
        self.in_a_row, self.last = state["in_a_row"], state["last"]
        self.history = [(products, value, error) for products, value, error in state["history"]]
        self.is_well_within = state["well_within"]
        self.missed.restore(state)
        if state["storage"] == "bfloat16":  # its rounding is in the vectors, wherever they lie now
            self.storage = "bfloat16"
        if self.lanczos.size:
            self.pairs = self.lanczos.ritz_pairs()

    @property
    def is_done(self) -> bool:
        """Whether it `is_enough`, or no product is left."""
        return self.is_enough or self.num_products >= self.request.max_passes

    @property
    def num_products(self) -> float:
        """Of the search and of its fresh starts."""
        return self.lanczos.num_steps + self.missed.num_products

    @property
    def is_enough(self) -> bool:
        """Whether the errors were small enough often enough."""
        in_a_row = self.in_a_row >= PASSES_IN_A_ROW * self.lanczos.block_size
        return (in_a_row and self.is_well_within) or self.lanczos.exhausted

    def result_of_all(self, close: bool, look: bool) -> EigenvaluesResult:
        """Searches, looks for what was missed, and closes.

        Raises:
            Interrupted: stopped on the way; its `partial` has the values so far.
        """
        discrepancy: float | None = None
        limits: Certificate | None = None
        try:
            if self.missed.looked is None and self.missed.going is None:
                self.iterate()
            limits = self.missed.certificate_of_all(look)
            if close:
                discrepancy = self._closing_check()
        except STOPPING as error:
            stop = cause_of(error)
            if self.lanczos.size:  # a step may have been made that was not looked at
                self.pairs = self.lanczos.ritz_pairs()
            raise Interrupted(
                self._result(None, self.missed.num_products) if self.pairs is not None else None, stop
            ) from stop
        return self._result(discrepancy, (0.0 if discrepancy is None else 1.0) + self.missed.num_products, limits)

    def iterate(self) -> None:
        """Products until it is done."""
        trend = self.trend()
        self.observer.begin(f"eigenvalues ({self.request.which})")
        while not self.is_done:
            self.advance(trend)

    def trend(self) -> Trend:
        """Foretells how many products are left."""
        return Trend(self.request.rtol, PASSES_IN_A_ROW * self.lanczos.block_size)

    @property
    def ritz_pairs(self) -> RitzPairs:
        """Of the last product."""
        assert self.pairs is not None
        return self.pairs

    def begin_anew(self) -> None:
        """Forgets what the last products showed: a missed eigenvalue is in the space now."""
        self.in_a_row, self.is_well_within, self.last = 0, False, None

    def advance(self, trend: Trend) -> None:
        """One product, and what it shows."""
        request, lanczos = self.request, self.lanczos
        if lanczos.size == lanczos.max_basis:
            self.missed.note_ends()
        self.pairs = lanczos.step(keep_for(request.k, request.which))
        found = self.eigenvalues(self.pairs)
        self.history.append((float(lanczos.num_steps), found[0].value, found[0].error_bound))
        # without Ritz values beyond the wanted ones there is no estimate of a gap
        seen = len(found) == request.num_wanted and lanczos.size > request.num_wanted
        still = seen and all(e.settled for e in found)
        if still and self.last is not None:  # another copy of a multiple eigenvalue moves those after it
            still = all(abs(e.value - o.value) <= e.error_bound + o.error_bound + request.tolerance.of(e.value)
                        for e, o in zip(found, self.last, strict=True))  # fmt: skip
        self.in_a_row = self.in_a_row + 1 if still else 0
        self.is_well_within = all(
            e.solver_error <= max(_WELL_WITHIN * request.tolerance.of(e.value), e.rounding)
            or e.residual_norm <= self.errors.floor(lanczos.scale)
            for e in found
        )
        self.last = found if seen else None
        worst = max(e.error_bound / max(abs(e.value), 1e-300) for e in found)
        self.observer.advance(
            lanczos.num_steps,
            f"lambda {found[0].value:.5g}, worst relative error {worst:.1e}",
            trend.remaining(lanczos.num_steps, worst) if seen else None,
        )

    def _result(
        self, discrepancy: float | None, check_hvps: float, limits: Certificate | None = None
    ) -> EigenvaluesResult:
        assert self.pairs is not None
        pairs = self.pairs
        index = pairs.wanted(self.request.k, self.request.which)
        if discrepancy is not None:
            self.errors = replace(self.errors, discrepancy=discrepancy, shift=self.shift)
        if self.lanczos.scale == 0.0:
            self.errors = replace(self.errors, least=least_of(self.operator, 0.0))
        done = self.is_enough and not self.missed.is_unsure
        found = self.eigenvalues(pairs, may_converge=done and len(index) == self.request.num_wanted)
        found = self._over_data(pairs, index, found)
        return EigenvaluesResult(
            found,
            self.lanczos.vectors(pairs, index),
            self.request.which,
            "lanczos",
            all(e.converged for e in found),
            discrepancy,
            self.meter.cost(check_hvps),
            scale=self.lanczos.scale,
            closed=self.lanczos.num_closed > 0 and not self.lanczos.exhausted,
            basis=self.storage,
            history=tuple(self.history),
            certificate=limits,
            excluded=dict(self.missed.from_start or {}),
        )

    def _over_data(self, pairs: RitzPairs, index: np.ndarray, found: tuple[Eigenvalue, ...]) -> tuple[Eigenvalue, ...]:
        """Each eigenvalue with its standard error over the data; the coupling with deflated vectors is not known."""
        lanczos, request = self.lanczos, self.request
        outside = lanczos.part_residuals(pairs, index) if request.deflated is None else None
        told = over_data(
            pairs.values,
            partial(lanczos.part_forms, pairs),
            outside,
            self.operator.part_weights,
            request.k,
            request.which,
            [pair.error_bound for pair in found],
        )
        return found if told is None else tuple(replace(p, over_data=t) for p, t in zip(found, told, strict=True))

    def eigenvalues(self, pairs: RitzPairs, may_converge: bool = True) -> tuple[Eigenvalue, ...]:
        """The wanted pairs with their errors."""
        index = pairs.wanted(self.request.k, self.request.which)
        residuals, gaps = pairs.residuals[index], pairs.gaps(index)
        if self.deflated_pairs is not None:
            residuals = np.hypot(residuals, self.lanczos.leaks(pairs, index))
            beside = [self.deflated_pairs.distance(float(value)) for value in pairs.values[index]]
            gaps = np.minimum(gaps, beside)
        found = [
            self.errors.eigenvalue(
                float(pairs.values[i]), float(residual), float(gap), self.lanczos.scale, done=may_converge
            )
            for i, residual, gap in zip(index, residuals, gaps, strict=True)
        ]
        return in_turn(found, self.request.which, self.request.k)

    def _closing_check(self) -> float:
        """One product with u = sum_i c_i y_i, c_i = +-1; the norm of A u minus A u as the recurrence predicts it.

        The difference is what rounding, lost orthogonality or an operator that is not symmetric brought in; over the
        signs its mean square is the sum of the pairs' own squared deviations.
        """
        assert self.pairs is not None
        index = self.pairs.wanted(self.request.k, self.request.which)
        signs = np.where(np.random.default_rng([self.request.seed, 2]).random(len(index)) < 0.5, -1.0, 1.0)
        space, deflated = self.operator.space, self.request.deflated
        vector = self.lanczos.mixed(self.pairs, index, signs)
        foretold = self.lanczos.foretold_product(self.pairs, index, signs)
        product = self.operator.precise_matvec(vector)
        is_precise = product is not None
        rest = (self.operator.matvec(vector) if product is None else product) - foretold
        rest = rest.to(space.dtype)
        if deflated is not None:
            rest.sub_(space.coefficients(deflated, rest) @ deflated)
        if is_precise:
            self.shift = float(np.linalg.norm(self.lanczos.inside(rest) @ self.pairs.coefficients[:, index]))
        return float(space.norm(rest))
