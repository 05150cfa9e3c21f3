"""The full check of eigenpairs: their true residuals, and a fresh start beside them for what was missed."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from curvtool.errors import STOPPING, Interrupted, cause_of
from curvtool.estimators.accuracy.noise import least_of
from curvtool.estimators.accuracy.pairs import PairErrors
from curvtool.estimators.accuracy.population import OverData, data_stderr
from curvtool.estimators.cost import Cost, Meter
from curvtool.estimators.eigenpairs import Certificate, Eigenvalue, EigenvaluesResult
from curvtool.estimators.eigenvalues_by_lanczos import by_lanczos
from curvtool.estimators.fresh_start import certificate, failure_of_look
from curvtool.estimators.observer import Observer
from curvtool.estimators.request import Request
from curvtool.estimators.steering import DeflatedPairs
from curvtool.linalg.ritz import RitzPairs
from curvtool.operators.base import LinearOperator

_MOST_BESIDE = 4  # further pairs taken into the span where those listed lie too close to the rest
_SEARCH_RTOL = 1e-2  # of the leading value of the complement, as long as it does not come near the last wanted one


def full_check(
    operator: LinearOperator, result: EigenvaluesResult, request: Request, observer: Observer
) -> EigenvaluesResult:
    """The result with true residuals, and with the pairs that a deflated fresh start finds beyond it.

    A single Krylov space sees a multiple eigenvalue once, and may not have met an eigenvector that its start hardly
    holds. With the pairs deflated, Lanczos from a new random vector in their complement shows the leading eigenvalue of
    the rest: where it lies beyond the last wanted one it is a missed pair, and the search goes on beside it too. What
    is reported are the Ritz pairs of the span of all, so that no pair's error hides in its coupling with another.

    Raises:
        Interrupted: stopped on the way; its `partial` is the result so far.
    """
    meter = Meter(operator)
    solver, missed, beside = result.cost, 0, 0
    span = _Span(operator, request, result.settled)

    def closed(result: EigenvaluesResult) -> EigenvaluesResult:
        return replace(result, cost=_sum(solver, meter.cost(meter.products)), num_missed=missed)

    try:
        result = span.of(result, observer)
        while True:
            rest = operator.space.dim - len(span.all_vectors)
            if rest == 0:
                result = span.result(result, ())
                break
            seed = request.seed + 1000 + missed + beside
            left = int(request.max_passes - solver.num_hvps - meter.products)
            if left < 1:
                return _unfinished(closed(result))
            fresh = replace(
                request, deflated=span.all_vectors, couplings=False, seed=seed, start=None, max_passes=left,
                failure=failure_of_look(missed + beside),
            )  # fmt: skip
            edges, vectors, beyond, excluded = _leading(operator, result, fresh, rest, observer)
            checked = replace(
                span.result(result, edges), certificate=span.certificate(result, excluded, meter.products)
            )
            if request.max_passes - solver.num_hvps - meter.products < len(vectors) and (
                any(beyond) or not all(edge.settled for edge in edges)
            ):
                return _unfinished(closed(replace(checked, certificate=None)))
            if any(beyond):
                missed += sum(beyond)
            elif checked.settled or not span.solved or beside >= _MOST_BESIDE:
                result = checked
                break
            else:  # as much as a cluster's next one, it would only make the errors look large
                beside += 1
            if request.max_passes - solver.num_hvps - meter.products < len(vectors):
                result = checked
                break
            for vector in vectors:
                span.add(vector)
            result = span.result(result, None)
    except Interrupted as stop:
        raise Interrupted(closed(result), stop.cause) from stop
    except STOPPING as error:
        raise Interrupted(closed(result), cause_of(error)) from error
    return closed(result)


def _unfinished(result: EigenvaluesResult) -> EigenvaluesResult:
    """Of a check that ran out of products: whether a pair was missed is not known, so no pair counts as settled."""
    pairs = tuple(replace(pair, settled=False) for pair in result.eigenvalues)
    return replace(result, eigenvalues=pairs, converged=False)


def true_residuals(
    operator: LinearOperator, result: EigenvaluesResult, request: Request, observer: Observer
) -> EigenvaluesResult:
    """The Ritz pairs of the span of the result's vectors, by a product with each: for vectors of a coarse basis.

    Raises:
        Interrupted: stopped on the way; its `partial` is the result as it was, of which nothing counts as settled.
    """
    meter = Meter(operator)
    try:
        found = _Span(operator, request, result.settled).of(result, observer)
    except STOPPING as error:
        stop = cause_of(error)
        pairs = tuple(replace(pair, settled=False) for pair in result.eigenvalues)
        cost = _sum(result.cost, meter.cost(meter.products))
        raise Interrupted(replace(result, eigenvalues=pairs, converged=False, cost=cost), stop) from stop
    return replace(found, cost=_sum(result.cost, meter.cost(meter.products)))


class _Span:
    """Orthonormal vectors with their products, and the Ritz pairs of their span."""

    def __init__(self, operator: LinearOperator, request: Request, solved: bool) -> None:
        self.operator, self.request, self.solved = operator, request, solved
        self._vectors = self._images = operator.space.empty(0)
        self._size = 0
        self.errors = PairErrors(operator.space.eps, request.noise, request.tolerance, least=least_of(operator, 1.0))
        self.parts = np.zeros((0, 0, 0))  # V A_b V^T of each part b of the data
        self.deflated = DeflatedPairs.of(operator, request.deflated) if request.deflated is not None else None

    @property
    def vectors(self) -> torch.Tensor:
        """V, orthonormal rows."""
        return self._vectors[: self._size]

    @property
    def images(self) -> torch.Tensor:
        """Their products A V."""
        return self._images[: self._size]

    @property
    def all_vectors(self) -> torch.Tensor:
        """These vectors and those that the caller had deflated."""
        return self.vectors if self.deflated is None else torch.cat([self.deflated.vectors, self.vectors])

    def of(self, result: EigenvaluesResult, observer: Observer) -> EigenvaluesResult:
        """The result by its vectors' true products; the vectors are taken over, and given back as they become."""
        num = len(result.vectors)
        self._vectors, self._images = result.vectors, self.operator.space.empty(num)
        observer.begin("true residuals", num)
        for number, vector in enumerate(result.vectors):
            self._take(vector)
            observer.advance(number + 1, "true residuals", num - number - 1)
        return self.result(result, None)

    def add(self, vector: torch.Tensor) -> None:
        """One vector more, by one product."""
        if self._size == len(self._vectors):
            self._vectors, self._images = (
                torch.cat([held, torch.empty_like(vector)[None]]) for held in (self._vectors, self._images)
            )
        self._vectors[self._size] = vector
        self._take(self._vectors[self._size])

    def _take(self, vector: torch.Tensor) -> None:
        """The next row, made orthogonal to the others again (it may come from a coarse basis), and its product."""
        space, others = self.operator.space, self.all_vectors
        for _ in range(2 if len(others) else 0):
            vector.sub_(space.combined(space.coefficients(others, vector), others))
        vector.div_(space.norm(vector))
        del others
        self._size += 1
        self._images[self._size - 1], shares = self.operator.matvec_in_parts(vector, self.vectors)
        row = shares.to(device="cpu", dtype=torch.float64).numpy()
        num = self._size
        grown = np.zeros((len(row), num, num))
        if num > 1 and len(row):
            grown[:, :-1, :-1] = self.parts
        grown[:, -1, :] = grown[:, :, -1] = row
        self.parts = grown

    def certificate(self, result: EigenvaluesResult, excluded: dict[float, float], products: float) -> Certificate:
        """By what a fresh start in the complement excludes there."""
        space, request = self.operator.space, self.request
        form = space.gram(self.vectors, self.images)
        rest = self.images - form.T @ self.vectors
        values, rotation = np.linalg.eigh(form.to("cpu", torch.float64).numpy())
        gram = space.gram(rest, rest).to("cpu", torch.float64).numpy()
        del rest
        pairs = self.result(result, None).eigenvalues
        slacks = [request.tolerance.of(pair.value) for pair in pairs]
        return certificate(
            pairs, slacks, request.which, request.k, values, rotation.T @ gram @ rotation, excluded, result.excluded,
            products, 0.0 if self.deflated is None else self.deflated.coupling,
        )  # fmt: skip

    def result(self, before: EigenvaluesResult, edges: tuple[Eigenvalue, ...] | None) -> EigenvaluesResult:
        """The wanted Ritz pairs with their true residuals.

        Their couplings with each other are gone, so that only the spectrum of the complement bounds their errors: for
        a cluster C by ||R_C||^2 / eta, eta its distance to that spectrum (Mathias 1998, SIAM J. Matrix Anal. Appl.
        19(2), 541-550).

        Args:
            before: whose order, count and gaps are taken.
            edges: the pairs nearest to these in the complement, from the ends asked for; None while they are not known:
                the gaps are then those from before.
        """
        space, request = self.operator.space, self.request
        form = space.gram(self.vectors, self.images).to("cpu", torch.float64).numpy()
        values, rotation = np.linalg.eigh((form + form.T) / 2)
        wanted = RitzPairs(values, rotation, np.zeros_like(values)).wanted(request.k, request.which)
        order = np.concatenate([wanted, np.setdiff1d(np.arange(len(values)), wanted)])  # they stand first from here on
        values, rotation, index = values[order], rotation[:, order], range(len(wanted))
        turn = torch.from_numpy(np.ascontiguousarray(rotation.T)).to(self.vectors)
        for rows in (self.vectors, self.images):
            space.rotate_(rows, turn)
        self.parts = np.einsum("ji,bjk,kl->bil", rotation, self.parts, rotation, optimize=True)
        ritz_values = torch.from_numpy(values).to(self.vectors)
        residuals = space.residual_norms(self.images, ritz_values, self.vectors).to("cpu", torch.float64).numpy()
        scale = max(before.scale, float(np.abs(values).max()))
        if scale == 0.0:
            self.errors = replace(self.errors, least=least_of(self.operator, 0.0))
        residuals = np.maximum(residuals, self.errors.rounding(scale))
        pairs = []
        for i in index:
            near = np.abs(values - values[i]) <= residuals + residuals[i]
            others = np.arange(len(values)) != i
            beside = np.abs(values[others] - values[i]) - residuals[others]
            gap = before.eigenvalues[min(i, len(before.eigenvalues) - 1)].gap
            if edges is not None:
                gap = min((_distance(request, float(values[i]), edge) for edge in edges), default=math.inf)
            if self.deflated is not None:
                gap = min(gap, self.deflated.distance(float(values[i])))
            separation = max(0.0, min(gap, float(beside.min(initial=math.inf))))
            done = self.solved and len(index) == request.num_wanted
            residual = float(np.linalg.norm(residuals[near]))
            pairs.append(
                self.errors.eigenvalue(float(values[i]), residual, gap, scale, separation=separation, done=done)
            )
        forms = np.diagonal(self.parts, axis1=1, axis2=2)[:, : len(index)]
        spread = data_stderr(forms, self.operator.part_weights)
        if spread is not None:
            pairs = [
                replace(pair, over_data=_moved(pair, float(s), before)) for pair, s in zip(pairs, spread, strict=True)
            ]
        return replace(
            before,
            eigenvalues=tuple(pairs),
            vectors=self.vectors[: len(index)],
            converged=all(pair.converged for pair in pairs),
            check_discrepancy=None,
        )


def _moved(pair: Eigenvalue, stderr: float, before: EigenvaluesResult) -> OverData:
    """What the search told of this pair over the data, which a span of few vectors cannot, with the value of now."""
    known = [each for each in before.eigenvalues if each.over_data is not None and each.over_data.bias is not None]
    nearest = min(known, key=lambda each: abs(each.value - pair.value), default=None)
    if nearest is None or nearest.over_data is None:
        return OverData(stderr, reason="the search kept no parts of the data")
    if abs(nearest.value - pair.value) > nearest.error_bound + pair.error_bound:
        return OverData(stderr, reason="the search had missed the pair")
    return nearest.over_data.moved(pair.value - nearest.value, stderr)


def _distance(request: Request, value: float, edge: Eigenvalue) -> float:
    """From a wanted value to the spectrum of the complement, whose leading value this is.

    Of the largest magnitudes it bounds both ends, whatever its sign.
    """
    apart = abs(value) - abs(edge.value) if request.which == "lm" else value - edge.value
    return abs(apart) - edge.error_bound


def _leading(
    operator: LinearOperator, result: EigenvaluesResult, request: Request, rest: int, observer: Observer
) -> tuple[tuple[Eigenvalue, ...], torch.Tensor, list[bool], dict[float, float]]:
    """The leading pairs of the deflated vectors' complement, one of each end, with their vectors; which of them lie
    beyond the wanted ones; and what the random start excludes there."""
    which = request.which if request.which != "be" or rest > 1 else "la"
    quick = replace(request, k=1, which=which, rtol=max(_SEARCH_RTOL, request.rtol), vector_rtol=None, start=None)
    found = by_lanczos(operator, quick, observer, close=False, look=False)
    left = int(request.max_passes - found.cost.num_hvps)
    excluded = found.excluded
    if left > 0 and any(_is_beyond(pair, result, request, slack=pair.error_bound) for pair in found.eigenvalues):
        exact = replace(quick, rtol=request.rtol, vector_rtol=request.vector_rtol, start=found.vectors)
        found = by_lanczos(operator, replace(exact, max_passes=left), observer, close=False, look=False)
    beyond = [_is_beyond(pair, result, request) for pair in found.eigenvalues]
    return found.eigenvalues, found.vectors, beyond, excluded


def _is_beyond(pair: Eigenvalue, result: EigenvaluesResult, request: Request, slack: float = 0.0) -> bool:
    """Whether the pair would stand before the last wanted one (of one of the ends), by more than the tolerance."""
    values, which = np.asarray(result.values), request.which
    if which == "lm":
        return abs(pair.value) + slack > np.abs(values).min() * (1 + request.rtol)
    upper = values[: request.k] if which == "be" else values if which == "la" else None
    lower = values[request.k :] if which == "be" else values if which == "sa" else None
    above = upper is not None and pair.value + slack > upper.min() + request.rtol * abs(upper.min())
    below = lower is not None and pair.value - slack < lower.max() - request.rtol * abs(lower.max())
    return bool(above or below)


def _sum(solver: Cost, check: Cost) -> Cost:
    return Cost(
        num_hvps=solver.num_hvps + check.num_hvps,
        solver_hvps=solver.solver_hvps,
        check_hvps=solver.check_hvps + check.num_hvps,
        data_passes=solver.data_passes + check.data_passes,
        seconds=solver.seconds + check.seconds,
    )
