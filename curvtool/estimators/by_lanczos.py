"""Extreme eigenvalues by Lanczos: when to stop, and the closing check."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from curvtool.errors import STOPPING, Interrupted, cause_of
from curvtool.estimators.accuracy import over_data
from curvtool.estimators.cost import Meter
from curvtool.estimators.eigenpairs import (
    ROUNDING,
    ROUNDING_STEPS,
    Eigenvalue,
    EigenvaluesResult,
)
from curvtool.estimators.observer import Observer
from curvtool.estimators.request import Request, basis_size, storage_for
from curvtool.linalg.lanczos import Keep, Lanczos
from curvtool.linalg.ritz import RitzPairs
from curvtool.operators.base import LinearOperator

BFLOAT16 = 2.0**-8  # by how much the norm of a vector of few large coordinates changes at most, rounded to it
MARGIN = 0.25  # of the residual: no smaller error is claimed, however wide the gap seems
PASSES_IN_A_ROW = 4  # of 1,200 starts on three networks three in a row missed a leading pair in 6, four in 4;
# from the gradient four did in 1


@dataclass(frozen=True)
class KnownPairs:
    """Vectors that were locked, taken for eigenvectors, with what one product each says of them.

    Attributes:
        vectors: orthonormal rows, shape (l, P).
        values: Rayleigh quotients, shape (l,).
        residuals: residual norms, shape (l,).
    """

    vectors: torch.Tensor
    values: np.ndarray
    residuals: np.ndarray

    @classmethod
    def of(cls, operator: LinearOperator, vectors: torch.Tensor) -> KnownPairs:
        """By a product each."""
        space, numbers = operator.space, []
        for vector in vectors:
            image = operator.matvec(vector)
            value = space.inner(vector, image)
            numbers.append(torch.stack([value, space.norm(image - value * vector)]))
        values, residuals = torch.stack(numbers, dim=1).to("cpu", torch.float64).numpy()
        return cls(vectors, values, residuals)

    def distance(self, value: float) -> float:
        """From a value to the nearest of these, less its residual norm."""
        return float((np.abs(self.values - value) - self.residuals).min(initial=math.inf))


def by_lanczos(
    operator: LinearOperator, request: Request, observer: Observer, *, check: bool = True
) -> EigenvaluesResult:
    """See `eigenvalues`, which checks the arguments; without `check` no closing product is made."""
    run = partial(_Run, operator, request, observer)
    return observer.remembered("Lanczos", operator, lambda: run().result_of_all(check))


class _Run:
    def __init__(self, operator: LinearOperator, request: Request, observer: Observer) -> None:
        self.operator, self.request, self.observer = operator, request, observer
        self.meter = Meter(operator)
        space, locked = operator.space, request.locked
        self.known = KnownPairs.of(operator, locked) if locked is not None and request.couplings else None
        self.storage = storage_for(space, request)
        self.lanczos = Lanczos(
            operator.matvec_in_parts,
            space,
            request.max_basis or basis_size(space, request),
            (request.seed, 1),
            start=_start(operator, request),
            block_size=request.block_size,
            locked=locked,
            storage=self.storage,
            sketch=locked is None,
        )
        self.pairs: RitzPairs | None = None
        self.in_a_row = 0
        self.last: tuple[Eigenvalue, ...] | None = None
        self.history: list[tuple[float, float, float]] = []
        self.enough_in_a_row = PASSES_IN_A_ROW * self.lanczos.block_size
        observer.resume("basis", operator, self)

    def state(self) -> dict[str, Any]:
        """The Krylov space, and how often in a row it was good enough."""
        return {
            "lanczos": self.lanczos.state(), "in_a_row": self.in_a_row, "last": self.last, "storage": self.storage,
            "history": [list(each) for each in self.history],
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        """Puts it back."""
        self.lanczos.restore(state["lanczos"])
        self.in_a_row, self.last = state["in_a_row"], state["last"]
        self.history = [(products, value, error) for products, value, error in state["history"]]
        if state["storage"] == "bfloat16":  # its rounding is in the vectors, wherever they lie now
            self.storage = "bfloat16"
        if self.lanczos.size:
            self.pairs = self.lanczos.ritz_pairs()

    @property
    def is_done(self) -> bool:
        """Whether the errors were small enough often enough, or no product is left."""
        enough = self.in_a_row >= self.enough_in_a_row or self.lanczos.exhausted
        return enough or self.lanczos.num_steps >= self.request.max_passes

    def result_of_all(self, check: bool) -> EigenvaluesResult:
        discrepancy: float | None = None
        try:
            self._iterate()
            if check:
                discrepancy = self._closing_check()
        except STOPPING as error:
            stop = cause_of(error)
            if self.lanczos.size:  # a step may have been made that was not looked at
                self.pairs = self.lanczos.ritz_pairs()
            raise Interrupted(self._result(None, 0.0) if self.pairs is not None else None, stop) from stop
        return self._result(discrepancy, 0.0 if discrepancy is None else 1.0)

    def _iterate(self) -> None:
        request, lanczos = self.request, self.lanczos
        keep, trend = keep_for(request.k, request.which), Trend(request.rtol, self.enough_in_a_row)
        self.observer.begin(f"eigenvalues ({request.which})")
        while not self.is_done:
            self.pairs = lanczos.step(keep)
            found = self._eigenvalues(self.pairs)
            self.history.append((float(lanczos.num_steps), found[0].value, found[0].error_bound))
            # without Ritz values beyond the wanted ones there is no estimate of a gap
            seen = len(found) == request.num_wanted and lanczos.size > request.num_wanted
            still = seen and all(e.converged for e in found)
            if still and self.last is not None:  # another copy of a multiple eigenvalue moves those after it
                still = all(abs(e.value - o.value) <= e.error_bound + o.error_bound + request.tolerance.of(e.value)
                            for e, o in zip(found, self.last, strict=True))  # fmt: skip
            self.in_a_row = self.in_a_row + 1 if still else 0
            self.last = found if seen else None
            worst = max(e.error_bound / max(abs(e.value), 1e-300) for e in found)
            self.observer.advance(
                lanczos.num_steps,
                f"lambda {found[0].value:.5g}, worst relative error {worst:.1e}",
                trend.remaining(lanczos.num_steps, worst) if seen else None,
            )

    def _result(self, discrepancy: float | None, check_hvps: float) -> EigenvaluesResult:
        assert self.pairs is not None
        pairs = self.pairs
        index = pairs.wanted(self.request.k, self.request.which)
        checked = RitzPairs(pairs.values, pairs.coefficients, np.hypot(pairs.residuals, discrepancy or 0.0))
        done = self.in_a_row >= self.enough_in_a_row or self.lanczos.exhausted
        found = self._eigenvalues(checked, may_converge=done and len(index) == self.request.num_wanted)
        if self.storage == "bfloat16":  # the recurrence does not know of its rounding
            found = tuple(replace(p, rounding=max(p.rounding, BFLOAT16 * self.lanczos.scale)) for p in found)
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
        )

    def _over_data(self, pairs: RitzPairs, index: np.ndarray, found: tuple[Eigenvalue, ...]) -> tuple[Eigenvalue, ...]:
        """With what another sample of the data would change; the coupling with locked vectors is not known."""
        lanczos, request = self.lanczos, self.request
        outside = lanczos.part_residuals(pairs, index) if request.locked is None else None
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
        request = self.request
        index = pairs.wanted(request.k, request.which)
        tolerance = request.tolerance
        epsilon = self.operator.space.eps * self.lanczos.scale
        rounding, floor = ROUNDING * epsilon, ROUNDING_STEPS * epsilon
        coarseness = BFLOAT16 * self.lanczos.scale if self.storage == "bfloat16" else 0.0
        found = []
        residuals, gaps = pairs.residuals[index], pairs.gaps(index)
        if self.known is not None:
            residuals = np.hypot(residuals, self.lanczos.leaks(pairs, index))
            beside = [self.known.distance(float(value)) for value in pairs.values[index]]
            gaps = np.minimum(gaps, beside)
        gaps = np.maximum(gaps - coarseness, 0.0)
        for i, residual, gap in zip(index, residuals, gaps, strict=True):
            pair = Eigenvalue(
                value=float(pairs.values[i]),
                residual_norm=max(float(residual), rounding),
                gap=float(gap),
                converged=False,
                rounding=rounding,
                margin=min(MARGIN * float(residual), tolerance.of(float(pairs.values[i]))),
            ).at_rounding(tolerance, floor)
            found.append(replace(pair, converged=may_converge and pair.meets(tolerance, floor)))
        return tuple(found)

    def _closing_check(self) -> float:
        """One product with u = sum_i c_i y_i, c_i = +-1; the norm of A u less what the recurrence foretells of it.

        The rest is what rounding, lost orthogonality or an operator that is not symmetric brought in; over the signs
        its mean square is the sum of the pairs' own squared deviations.
        """
        assert self.pairs is not None
        index = self.pairs.wanted(self.request.k, self.request.which)
        signs = np.where(np.random.default_rng([self.request.seed, 2]).random(len(index)) < 0.5, -1.0, 1.0)
        product = self.operator.matvec(self.lanczos.mixed(self.pairs, index, signs))
        locked = self.request.locked
        if locked is not None:
            product.sub_(self.operator.space.coefficients(locked, product) @ locked)
        product.sub_(self.lanczos.foretold_product(self.pairs, index, signs))
        return float(self.operator.space.norm(product))


def _start(operator: LinearOperator, request: Request) -> torch.Tensor | None:
    """The given vectors' sum with a random part as long as it is, so that no direction is shut out; or theirs.

    With a block each given vector starts a direction of its own, and the last one is random.
    """
    if request.start is None:
        return None
    space = operator.space
    given = request.start.to(device=space.device, dtype=space.dtype)
    if request.block_size > 1:
        return given[: request.block_size - 1]
    noise, total = space.normal(request.seed, 22), given.sum(0)
    length = float(space.norm(total))
    if not 0.0 < length < math.inf:  # vectors that cancel, as all vectors of one dimension may
        return noise[None]
    noise = noise * (length / space.norm(noise))
    if float(space.norm(total + noise)) < length / 2:  # opposite to the given ones, and as random with the other sign
        noise = -noise
    return (total + noise)[None]


def keep_for(k: int, which: str) -> Keep:
    """The pairs that survive a restart: the wanted ones and their neighbours, from the wanted ends."""

    def keep(pairs: RitzPairs, number: int) -> np.ndarray:
        wanted = 2 * k if which == "be" else k
        number = min(max(number, wanted + 1), len(pairs.values) - 1)
        if which == "be":
            return pairs.wanted(max(number // 2, k), "be")  # never cut: the wanted ones stand at both ends
        return pairs.wanted(number, which)

    return keep


class Trend:
    """How many more products until the error meets the tolerance, by its mean fall over the last ten."""

    def __init__(self, rtol: float, in_a_row: int = PASSES_IN_A_ROW) -> None:
        self.rtol, self.in_a_row = rtol, in_a_row
        self.history: list[tuple[int, float]] = []

    def remaining(self, step: int, error: float) -> float | None:
        """None where the error does not fall."""
        self.history = [*self.history[-9:], (step, math.log(max(error, 1e-300)))]
        (first, high), (last, low) = self.history[0], self.history[-1]
        if low <= math.log(self.rtol):
            return float(self.in_a_row - 1)
        if last == first or low >= high:
            return None
        return (low - math.log(self.rtol)) * (last - first) / (high - low) + self.in_a_row - 1
