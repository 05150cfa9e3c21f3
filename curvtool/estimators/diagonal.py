"""The diagonal of a symmetric operator, with a standard error an entry."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch

from curvtool.critical import undisturbed
from curvtool.errors import STOPPING, Interrupted, UsageError, cause_of, not_finite
from curvtool.estimators.cost import Cost, Meter
from curvtool.estimators.observer import SILENT, Observer
from curvtool.operators.base import LinearOperator

Method = Literal["auto", "hutchinson", "exact"]
Used = Literal["hutchinson", "exact"]
METHODS: tuple[str, ...] = get_args(Method)
_PILOT = 4
_WORTH = 1.5  # times the passes that probes are foretold to take: what all entries exactly may cost


@dataclass(frozen=True)
class DiagonalResult:
    """Attributes:
    diagonal: the estimate of diag(A), a vector of the operator's space.
    stderr: the standard error of every entry, likewise; zeros where exact, None after a single pass.
    relative_error: sqrt(sum stderr^2) over the norm of the diagonal (its own noise taken out); None likewise.
    sum: the entries' sum, an estimate of the trace.
    sum_stderr: its standard error.
    method: `hutchinson` or `exact`.
    reason: why.
    num_passes: passes that were made.
    num_terms: terms with a probe of their own in each.
    converged: whether relative_error is at most rtol.
    cost: products and time.
    """

    diagonal: torch.Tensor
    stderr: torch.Tensor | None
    relative_error: float | None
    sum: float
    sum_stderr: float | None
    method: Used
    reason: str
    num_passes: int
    num_terms: int
    converged: bool
    cost: Cost


def diagonal(
    operator: LinearOperator,
    *,
    method: Method = "auto",
    rtol: float = 0.1,
    max_passes: int = 300,
    seed: int = 0,
    observer: Observer = SILENT,
) -> DiagonalResult:
    """diag(A) = sum_t E[z_t * (A_t z_t)], entry by entry, with random signs z_t of its own for every term and pass.

    Bekas, Kokiopoulou, Saad 2007 (Appl. Numer. Math. 57); unbiased, the variance of entry i over a pass is the sum of
    the squares of the other entries in row i of each term. The standard error of every entry comes from the passes'
    spread. `exact` takes the operator's own way, P products with unit vectors or less; `auto` takes it where it is no
    dearer than the passes that a pilot foretells.

    Args:
        operator: the matrix, a sum of terms.
        method: `auto`, `hutchinson` or `exact`.
        rtol: the norm of all standard errors over the norm of the diagonal, to reach.
        max_passes: passes after which it stops and says so.
        seed: of the probes.
        observer: hears progress.

    Raises:
        UsageError: CT001, the arguments make no sense.
        Interrupted: stopped on the way; its `partial` is the result so far.
    """
    if method not in METHODS:
        raise UsageError("CT001", f"unknown method {method!r}", expected=", ".join(METHODS), received=method)
    if not 0 < rtol < 1:
        raise UsageError("CT001", "no such tolerance", expected="0 < rtol < 1", received=str(rtol))
    if max_passes < 2:
        raise UsageError("CT001", "an error needs two passes", expected="--max-passes 2", received=str(max_passes))
    return _Run(operator, rtol, max_passes, seed, observer).result_of(method)


class _Run:
    def __init__(self, operator: LinearOperator, rtol: float, max_passes: int, seed: int, observer: Observer) -> None:
        self.operator, self.rtol, self.max_passes = operator, rtol, max_passes
        self.seed, self.observer = seed, observer
        self.meter = Meter(operator)
        self.num_passes = 0
        self.mean, self.squares = operator.space.zeros(), operator.space.zeros()  # Welford 1962
        self.totals: list[torch.Tensor] = []
        self._told = "diagonal"  # for progress
        self.reason = "asked for"
        self.until = 0  # passes that were decided on
        self.is_decided = False
        observer.resume("probes", operator, self)

    def state(self) -> dict[str, Any]:
        """The mean and the spread of the passes so far, and what was decided after them."""
        totals = torch.stack(self.totals).to("cpu", torch.float64).numpy() if self.totals else np.zeros(0)
        return {
            "vectors": torch.stack([self.mean, self.squares]),
            "totals": totals,
            "decided": [self.num_passes, self.until, self.is_decided, self.reason],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Puts it back."""
        self.mean, self.squares = state["vectors"]
        self.totals = list(torch.from_numpy(state["totals"]).to(self.mean.device))
        self.num_passes, self.until, self.is_decided, self.reason = state["decided"]

    def result_of(self, method: Method) -> DiagonalResult:
        try:
            if method == "exact":
                return self._exact()
            exact = self.operator.diagonal_cost
            if method == "auto" and exact <= _PILOT:
                self.reason = f"{exact} products give it"
                return self._exact()
            self.observer.begin("diagonal")
            self._draw(self.until)
            while True:
                planned = self._planned()
                if method == "auto" and self.num_passes and not self.is_decided:
                    if exact <= _WORTH * (planned - self.num_passes):
                        self.reason = f"{planned} passes were foretold, and {exact} give it exactly"
                        return self._exact()
                    self.reason = f"{planned} passes were foretold, and {exact} would give it exactly"
                    self.is_decided = True
                if planned <= self.num_passes or self.num_passes >= self.max_passes:
                    return self._result()
                self.until = min(planned, self.max_passes)
                self._draw(self.until)
        except STOPPING as error:
            stop = cause_of(error)
            raise Interrupted(self._result() if self.num_passes else None, stop) from stop

    def _planned(self) -> int:
        """Passes at which the error should be small enough; those made, where it is."""
        if not self.num_passes:
            return min(_PILOT, self.max_passes)
        error = self._relative_error()
        self._told = (
            "not told from its noise" if error is None else f"relative error {error:.2g} after {self.num_passes} passes"
        )
        if error is None or error <= self.rtol:
            return self.num_passes
        wanted = min(self.num_passes * (error / self.rtol) ** 2, 1e9)
        return max(self.num_passes + 1, math.ceil(wanted))

    def _draw(self, until: int) -> None:
        space, operator = self.operator.space, self.operator
        while self.num_passes < until:
            drawn = operator.probe_space.zeros()
            for terms in operator.term_ranges:
                probes = operator.probe_space.signs(self.seed, 21, self.num_passes, rows=terms)
                drawn += operator.term_products(terms, probes).mul_(probes).sum(0)
            drawn = operator.from_probes(drawn)
            total = space.total(drawn)
            with undisturbed():
                self.num_passes += 1
                step = drawn - self.mean
                self.mean += step / self.num_passes
                self.squares += step * (drawn - self.mean)
                self.totals.append(total)
            self.observer.advance(self.num_passes, self._told, until - self.num_passes)

    def _variances(self) -> torch.Tensor:
        return self.squares / (self.num_passes * (self.num_passes - 1))

    def _relative_error(self) -> float | None:
        """None where the diagonal is not told from its noise."""
        space = self.operator.space
        pair = torch.stack([space.total(self._variances()), space.inner(self.mean, self.mean)])
        noise, square = (float(x) for x in pair.to("cpu", torch.float64))
        if not math.isfinite(noise + square):
            raise not_finite("a diagonal entry")
        if square == 0.0:
            return None
        return math.sqrt(noise / max(square - noise, 1e-12 * square))

    def _exact(self) -> DiagonalResult:
        total = self.operator.diagonal_cost
        self.observer.begin("diagonal, exactly", float(total))
        found = self.operator.exact_diagonal(lambda done: self.observer.advance(done, "diagonal", total - done))
        whole = float(self.operator.space.total(found))
        if not math.isfinite(whole):
            raise not_finite("a diagonal entry")
        zeros = torch.zeros_like(found)
        return DiagonalResult(found, zeros, 0.0, whole, 0.0, "exact", self.reason, total, 1, True, self.meter.cost())

    def _result(self) -> DiagonalResult:
        several = self.num_passes > 1
        error = self._relative_error() if several else None
        totals = torch.stack(self.totals).double()
        return DiagonalResult(
            diagonal=self.mean,
            stderr=self._variances().clamp_min(0).sqrt() if several else None,
            relative_error=error,
            sum=float(totals.mean()),
            sum_stderr=float(totals.std() / math.sqrt(self.num_passes)) if several else None,
            method="hutchinson",
            reason=self.reason,
            num_passes=self.num_passes,
            num_terms=self.operator.num_terms,
            converged=several and (error is None or error <= self.rtol),
            cost=self.meter.cost(),
        )
