"""Extreme eigenvalues by Lanczos: when to stop, and the closing check."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from curvtool.errors import STOPPING, Interrupted, cause_of
from curvtool.estimators.accuracy.noise import least_of
from curvtool.estimators.accuracy.pairs import BFLOAT16, PairErrors, in_turn
from curvtool.estimators.accuracy.population import over_data
from curvtool.estimators.cost import Meter
from curvtool.estimators.eigenpairs import EMERGED, Certificate, Eigenvalue, EigenvaluesResult
from curvtool.estimators.fresh_start import (
    DOUBT,
    NUM_STEPS,
    Ends,
    FreshStart,
    certificate,
    ends_of,
    failure_of_look,
    has_risen,
    signs_of,
    stands_alone,
)
from curvtool.estimators.observer import Observer
from curvtool.estimators.request import BESIDE, FAILURE, Request, basis_size, room_beside, storage_for
from curvtool.estimators.steering import PASSES_IN_A_ROW, DeflatedPairs, Trend, keep_for, start_for
from curvtool.linalg.lanczos import Lanczos
from curvtool.linalg.ritz import RitzPairs
from curvtool.operators.base import LinearOperator

# A search ends when the solver's error is below this share of the tolerance. In a spectrum without gaps the error
# falls slowly, and a missed pair may still emerge; where there is a gap, the smaller error costs a product or two. A
# search that ended at the whole tolerance missed a pair in one run of 34 on small networks and spectra without outliers
_WELL_WITHIN = 0.08
_MOST_SHOWN = 4  # times that the search goes on because a random start showed a missed pair
_LOOK_SHARE = 0.15  # of the search's products: what a random start may take that shows no pair and excludes none
# Further products of the search, as a share of those made, where a fresh start is inconclusive. An eigenvector that
# lies half in the search's space is coupled to the rest only through the search's own next vectors: these show it
# within a fifth of the products made so far, where a random start needs more. About 1 run in 10 goes on
_FURTHER_SHARE = 0.3
_SECOND_LOOK_SHARE = 0.3  # what a random start may take after these, since the first left something open


def by_lanczos(
    operator: LinearOperator, request: Request, observer: Observer, *, close: bool = True, beside: bool = True
) -> EigenvaluesResult:
    """See `eigenvalues`, which checks the arguments.

    Args:
        operator: the matrix.
        request: what is asked.
        observer: hears progress.
        close: whether a closing product is made.
        beside: whether fresh starts look for missed pairs.
    """
    run = partial(_Run, operator, request, observer)
    return observer.ledger.remembered("Lanczos", operator, lambda: run().result_of_all(close, beside))


class _Run:
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
        self.from_start: Ends | None = None
        self.num_shown, self.num_looks, self.num_fresh, self.is_unsure = 0, 0, 0.0, False
        self.fresh: tuple[FreshStart, float] | None = None  # that is at work, and the fresh products before it
        self.before: dict[str, Any] | None = None  # the saved state of a fresh start that was stopped
        self.is_second_look = False  # whether the search went on since the last fresh start, and nothing moved
        self.going: dict[str, Any] | None = None  # on with the search after a fresh start; see `_goes_on_unmoved`
        self.looked: dict[str, Any] | None = None  # what fresh starts showed, once none is to come
        observer.ledger.resume("basis", operator, self)

    def state(self) -> dict[str, Any]:
        """The Krylov space, what its last looks showed, and the fresh start at work."""
        return {
            "lanczos": self.lanczos.state(), "in_a_row": self.in_a_row, "last": self.last, "storage": self.storage,
            "history": [list(each) for each in self.history], "well_within": self.is_well_within,
            "fresh": [self.num_shown, self.num_looks, self.num_fresh, self.is_second_look], "going": self.going,
            "looked": self.looked,
            "looking": None if self.fresh is None else {"search": self.fresh[0].state(), "begun": self.fresh[1]},
            "ends": None if self.from_start is None else [[sign, end] for sign, end in self.from_start.items()],
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        """Puts it back."""
        self.lanczos.restore(state["lanczos"])
        self.in_a_row, self.last = state["in_a_row"], state["last"]
        self.history = [(products, value, error) for products, value, error in state["history"]]
        self.is_well_within = state["well_within"]
        self.num_shown, self.num_looks, self.num_fresh, self.is_second_look = state["fresh"]
        self.from_start = None if state["ends"] is None else dict(state["ends"])
        self.going, self.before, self.looked = state["going"], state["looking"], state["looked"]
        if state["storage"] == "bfloat16":  # its rounding is in the vectors, wherever they lie now
            self.storage = "bfloat16"
        if self.lanczos.size:
            self.pairs = self.lanczos.ritz_pairs()

    @property
    def is_done(self) -> bool:
        """Whether the errors were small enough often enough, or no product is left."""
        return self._is_enough or self.num_products >= self.request.max_passes

    @property
    def num_products(self) -> float:
        """Of the search and of its fresh starts."""
        return self.lanczos.num_steps + self.num_fresh

    @property
    def _is_enough(self) -> bool:
        in_a_row = self.in_a_row >= PASSES_IN_A_ROW * self.lanczos.block_size
        return (in_a_row and self.is_well_within) or self.lanczos.exhausted

    def result_of_all(self, close: bool, beside: bool) -> EigenvaluesResult:
        discrepancy: float | None = None
        limits: Certificate | None = None
        try:
            if self.looked is None:
                if self.going is None:
                    self._iterate()
                self._note_ends()
                limits = self._look_beside() if beside else self._certificate(None)
                self.looked = {"limits": limits, "unsure": self.is_unsure}
            limits, self.is_unsure = self.looked["limits"], self.looked["unsure"]
            if close:
                discrepancy = self._closing_check()
        except STOPPING as error:
            stop = cause_of(error)
            if self.lanczos.size:  # a step may have been made that was not looked at
                self.pairs = self.lanczos.ritz_pairs()
            raise Interrupted(self._result(None, self.num_fresh) if self.pairs is not None else None, stop) from stop
        return self._result(discrepancy, (0.0 if discrepancy is None else 1.0) + self.num_fresh, limits)

    def _iterate(self) -> None:
        trend = self._trend()
        self.observer.begin(f"eigenvalues ({self.request.which})")
        while not self.is_done:
            self._advance(trend)

    def _trend(self) -> Trend:
        return Trend(self.request.rtol, PASSES_IN_A_ROW * self.lanczos.block_size)

    def _advance(self, trend: Trend) -> None:
        """One product, and what it shows."""
        request, lanczos = self.request, self.lanczos
        if lanczos.size == lanczos.max_basis:
            self._note_ends()
        self.pairs = lanczos.step(keep_for(request.k, request.which))
        found = self._eigenvalues(self.pairs)
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
        done = self._is_enough and not self.is_unsure
        found = self._eigenvalues(pairs, may_converge=done and len(index) == self.request.num_wanted)
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
            excluded=dict(self.from_start or {}),
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

    def _eigenvalues(self, pairs: RitzPairs, may_converge: bool = True) -> tuple[Eigenvalue, ...]:
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

    def _note_ends(self) -> None:
        """Bounds on the spectrum's ends from the random start; to be had until a restart cuts its recurrence."""
        if self.from_start is None:
            request = self.request
            start, dim = request.start, self.lanczos.dim
            known = self.storage != "bfloat16" and (start is None or request.independent_start)
            share = 1.0 if start is None else 0.25  # two unit vectors' sum is 2 long at most
            self.from_start = (
                ends_of(self.lanczos.recurrence, dim, signs_of(request.which), request.failure, share) if known else {}
            )

    def _look_beside(self) -> Certificate | None:
        """Fresh starts and further products of the search, until neither shows a missed eigenvalue."""
        while True:
            fresh, emerged, limits = None, None, None
            if self.going is None:
                fresh, emerged, is_open = self._fresh_start()
                limits = self._certificate(fresh)  # later products only bring Ritz values nearer: it stays valid
                self.num_looks += 1
                if emerged is None and (not is_open or self.is_second_look):
                    return limits
                if emerged is None:
                    before, steps = self._eigenvalues(self._ritz_pairs), _FURTHER_SHARE * self.lanczos.num_steps
                    self.going = {"before": before, "left": math.ceil(steps), "limits": limits}
            if self.going is not None:
                limits = self.going["limits"]
                if self._goes_on_unmoved(self.going):
                    self.is_second_look = True
                    continue
            self.num_shown += 1
            self.is_second_look = False
            goes_on = self.num_shown <= _MOST_SHOWN and all(
                self.lanczos.join(vector, keep_for(self.request.k, self.request.which)) for vector in emerged or []
            )
            self.in_a_row, self.is_well_within, self.last = 0, False, None
            if not goes_on or self.is_done:
                self.is_unsure = True
                return limits
            del fresh, emerged
            self._iterate()

    @property
    def _ritz_pairs(self) -> RitzPairs:
        assert self.pairs is not None
        return self.pairs

    def _goes_on_unmoved(self, going: dict[str, Any]) -> bool:
        """Goes on with the search where a fresh start left something open. Returns whether the values stayed.

        Args:
            going: the eigenvalues `before` and the steps `left`, which a run that was stopped meanwhile has again.
        """
        before, trend, has_moved = going["before"], self._trend(), False
        while not has_moved:
            now = self._eigenvalues(self._ritz_pairs)
            moves = np.abs([e.value - o.value for e, o in zip(now, before, strict=True)])
            has_moved = bool((moves > self._slacks(before)).any())
            if has_moved or not going["left"] or self.lanczos.exhausted or self.num_products >= self.request.max_passes:
                break
            going["left"] -= 1
            self._advance(trend)
        self.going = None
        return not has_moved and self._is_enough

    def _slacks(self, found: tuple[Eigenvalue, ...]) -> np.ndarray:
        """By how much each value may move where nothing was missed: a missed eigenvalue that few products resolve by
        half moves a listed one by less than the tolerance."""
        return np.array([max(pair.error_bound, EMERGED * self.request.tolerance.of(pair.value)) for pair in found])

    def _fresh_start(self) -> tuple[FreshStart | None, list[torch.Tensor] | None, bool]:
        """A fresh start, the directions in which it shows values beyond those found (None where it shows none), and
        whether it leaves open that there are some: where `DOUBT` is left at its end, or an unwanted value rises."""
        assert self.pairs is not None
        lanczos, request, pairs = self.lanczos, self.request, self.pairs
        index = pairs.wanted(request.k, request.which)
        if lanczos.exhausted or self.storage == "bfloat16" or lanczos.dim == lanczos.size:
            return None, None, False
        if request.deflated is None:
            rows, inside = lanczos.basis[: lanczos.size], lanczos.projected[: lanczos.size, : lanczos.size]
            inside = np.tril(inside) + np.tril(inside, -1).T
        else:
            rows, inside = torch.cat([request.deflated, lanczos.vectors(pairs, index)]), np.diag(pairs.values[index])
        before, self.before = self.before, None
        begun = self.num_fresh if before is None else before["begun"]
        room = int(min(request.max_passes - lanczos.num_steps - begun, lanczos.dim - len(inside)))
        if room < 1:
            return None, None, False
        share = _SECOND_LOOK_SHARE if self.is_second_look else _LOOK_SHARE
        most = min(room, max(BESIDE, math.ceil(share * lanczos.num_steps)))
        kept = min(most, room_beside(self.operator.space, request, len(lanczos.basis)))
        seeds, keep = (request.seed, self.num_looks), keep_for(1, request.which)
        fresh = FreshStart(self.operator, rows, inside, kept, seeds, keep, self.storage)
        if before is not None:
            fresh.restore(before["search"])
        self.fresh = fresh, begun
        try:
            emerged, is_open = self._shown_by(fresh, most, min(room, max(most, lanczos.num_steps)))
        finally:
            self.fresh = None
        return fresh, emerged, is_open

    def _shown_by(self, fresh: FreshStart, most: int, longest: int) -> tuple[list[torch.Tensor] | None, bool]:
        """What `_fresh_start` tells, by as many products at most, and by `longest` where it shows a value by itself."""
        request, pairs = self.request, self._ritz_pairs
        found = self._eigenvalues(pairs)
        slacks, values = self._slacks(found), np.array([pair.value for pair in found])
        slack, signs = float(slacks.min()), signs_of(request.which)
        done = fresh.num_steps
        for step in range(done, longest):
            if step > done:  # after each product the run may be stopped
                self.observer.advance(self.num_products, "another random start looks for missed eigenvalues")
            fresh.step()
            self.num_fresh += 1
            joint = fresh.joint_pairs()
            now = joint.values[joint.wanted(request.k, request.which)][: len(values)]
            if (np.abs(now - values) > slacks).any():
                return [fresh.leading(sign) for sign in signs], False
            if step + 1 < NUM_STEPS:
                continue
            is_seen = stands_alone(pairs, fresh.own_pairs, request.k, request.which, slack)
            doubt = FAILURE if is_seen else DOUBT
            if not any(self._is_near(fresh.reach(sign, doubt), sign, found) for sign in signs):
                return None, False
            if is_seen:
                continue
            if step + 1 >= most or has_risen(pairs, joint, request.k, request.which, slack):
                break
        return None, True

    def _is_near(self, reach: float, sign: float, found: tuple[Eigenvalue, ...]) -> bool:
        """Whether the complement may hold a value past the last wanted one of that end."""
        k, which = self.request.k, self.request.which
        sizes = [abs(pair.value) if which == "lm" else sign * pair.value for pair in found]
        listed = list(zip(sizes, self._slacks(found), strict=True))
        value, slack = min(listed if which != "be" else listed[:k] if sign > 0 else listed[-k:])
        return reach > value + slack

    def _certificate(self, fresh: FreshStart | None) -> Certificate | None:
        assert self.pairs is not None
        request, lanczos, pairs = self.request, self.lanczos, self.pairs
        found = self._eigenvalues(pairs)
        slacks = [request.tolerance.of(pair.value) for pair in found]
        signs = signs_of(request.which)
        # beside a search with deflated vectors a fresh start has the wanted vectors alone: others are in its complement
        whole = request.deflated is None or lanczos.exhausted
        keep = np.arange(len(pairs.values)) if whole else pairs.wanted(request.k, request.which)
        residuals = lanczos.coupling @ pairs.coefficients[:, keep]
        rest: Ends = {}
        if lanczos.exhausted:
            rest = dict.fromkeys(signs, -math.inf)
        elif fresh is not None:
            rest = fresh.ends(signs, failure_of_look(self.num_looks))
        if not rest and not self.from_start:
            return None
        return certificate(
            found, slacks, request.which, request.k, pairs.values[keep], residuals.T @ residuals, rest,
            self.from_start or {}, self.num_fresh, 0.0 if self.deflated_pairs is None else self.deflated_pairs.coupling,
        )  # fmt: skip

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
