"""The eigenvalues of largest magnitude by deflated power iteration."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from curvtool.errors import STOPPING, Interrupted, cause_of
from curvtool.estimators.accuracy.noise import least_of
from curvtool.estimators.accuracy.pairs import PairErrors, in_turn
from curvtool.estimators.cost import Meter
from curvtool.estimators.eigenpairs import EigenvaluesResult, Tolerance
from curvtool.estimators.observer import Observer
from curvtool.linalg.power import PowerState, power_iteration
from curvtool.operators.base import LinearOperator


def by_power(
    operator: LinearOperator,
    k: int,
    tolerance: Tolerance,
    max_passes: int,
    seed: int,
    observer: Observer,
    noise: float = 0.0,
) -> EigenvaluesResult:
    """See `eigenvalues`, which checks the arguments."""
    run = partial(_Run, operator, k, tolerance, max_passes, seed, observer, noise)
    return observer.ledger.remembered("power iteration", operator, lambda: run().result_of_all())


class _Run:
    def __init__(
        self,
        operator: LinearOperator,
        k: int,
        tolerance: Tolerance,
        max_passes: int,
        seed: int,
        observer: Observer,
        noise: float,
    ) -> None:
        self.operator, self.k, self.tolerance, self.max_passes = operator, k, tolerance, max_passes
        self.seed, self.observer = seed, observer
        self.errors = PairErrors(operator.space.eps, noise, tolerance, least=least_of(operator, 1.0))
        self.meter = Meter(operator)
        self.magnitudes: list[float] = []
        self.vectors, self.images = operator.space.empty(k), operator.space.empty(k)
        self.current: PowerState | None = None
        self.start: torch.Tensor | None = None  # where the iteration of the next pair goes on
        observer.ledger.resume("vectors", operator, self)

    def state(self) -> dict[str, Any]:
        """The pairs found, and the next iterate of the one that is looked for."""
        num = len(self.magnitudes)
        following = None if self.current is None else self.current.following
        return {
            "magnitudes": self.magnitudes,
            "vectors": self.vectors[:num],
            "images": self.images[:num],
            "following": self.start if following is None else following,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Puts them back."""
        self.magnitudes, num = state["magnitudes"], len(state["magnitudes"])
        self.vectors[:num], self.images[:num] = state["vectors"], state["images"]
        self.start = state["following"]

    def result_of_all(self) -> EigenvaluesResult:
        self.observer.begin("eigenvalues (power iteration)")
        try:
            for index in range(len(self.magnitudes), self.k):
                if not self._found_pair(index):
                    break
        except STOPPING as error:
            stop = cause_of(error)
            if self.current is not None and len(self.magnitudes) < self.k:
                self._close(self.current)
            raise Interrupted(self._result() if self.magnitudes else None, stop) from stop
        return self._result()

    def _found_pair(self, index: int) -> bool:
        """Whether the next pair converged; it is taken in either way."""
        space, meter = self.operator.space, self.meter
        before = self.vectors[:index]
        for state in power_iteration(self.operator.matvec, space, before, (self.seed, 3, index), self.start):
            largest = max([abs(state.value), *self.magnitudes])
            room = self.tolerance.of(state.value) - self.errors.rounding(largest)  # the arithmetic's error is added
            converged = state.residual_norm <= max(room, self.errors.floor(largest))
            done = converged or meter.products >= self.max_passes
            if done:  # before it is told: a run that is stopped there must not go on with this pair
                self._close(state)
            self.current, self.start = None if done else state, None
            self.observer.advance(
                meter.products, f"lambda_{index + 1} {state.value:.5g} +- {state.residual_norm:.1e}", None
            )
            if done:
                break
        return converged

    def _close(self, state: PowerState) -> None:
        self.vectors[len(self.magnitudes)], self.images[len(self.magnitudes)] = state.vector, state.image
        self.magnitudes.append(abs(state.value))

    def _result(self) -> EigenvaluesResult:
        """The Ritz pairs of the span of what was found: each vector was made orthogonal to others that were inexact,
        and only in their span do the residuals tell the whole error."""
        space, num = self.operator.space, len(self.magnitudes)
        basis, products = self.vectors[:num], self.images[:num]
        form = space.gram(basis, products).to("cpu", torch.float64).numpy()
        values, rotation = np.linalg.eigh((form + form.T) / 2)
        order = np.argsort(-np.abs(values), kind="stable")
        turn = torch.from_numpy(np.ascontiguousarray(rotation[:, order].T)).to(basis)
        ritz, rest = turn @ basis, turn @ products
        scale = max(float(np.abs(values).max()), *self.magnitudes)
        if scale == 0.0:
            self.errors = replace(self.errors, least=least_of(self.operator, 0.0))
        pairs = []
        for place, i in enumerate(order):
            residual = float(space.norm(rest[place] - float(values[i]) * ritz[place]))
            pairs.append(self.errors.eigenvalue(float(values[i]), residual, 0.0, scale))
        whole = num == self.k and all(pair.converged for pair in pairs)
        return EigenvaluesResult(in_turn(pairs, "lm", self.k), ritz, "lm", "power", whole, None, self.meter.cost())
