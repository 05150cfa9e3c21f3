"""The diagonal of a symmetric operator, with a standard error for each entry."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch

from curvtool.critical import undisturbed
from curvtool.errors import STOPPING, Interrupted, UsageError, cause_of
from curvtool.estimators.accuracy.entries import EntryErrors, of_entries, rounding_of_entries
from curvtool.estimators.accuracy.forms import LEAST_PASSES, ONE_GROUP, PASSES_OF_FEW_SIGNS
from curvtool.estimators.accuracy.noise import NOISE_OF_TRACES, least_of, noise_of
from curvtool.estimators.cost import Cost, Meter
from curvtool.estimators.kept_steps import KeptSteps
from curvtool.estimators.observer import SILENT, Observer
from curvtool.linalg.usable import require_finite, require_usable
from curvtool.operators.base import LinearOperator
from curvtool.vocabulary import DiagonalChoice, DiagonalMethod
from curvtool.words import counted

METHODS: tuple[str, ...] = get_args(DiagonalChoice)
_PILOT = 8  # passes; of four, those of one sign in eight fall alike
_WORTH = 1.5  # times the passes that probes are foretold to take: what all entries exactly may cost


@dataclass(frozen=True)
class DiagonalResult:
    """Attributes:
    diagonal: the estimate of diag(A), a vector of the operator's space.
    stderr: the standard error of every entry, likewise; the rounding where exact, None after a single pass, or after
        fewer than five that one group decides.
    entry_degrees: degrees of freedom of these; infinite where exact, None after a single pass.
    relative_error: sqrt(sum stderr^2) over the norm of the diagonal (its own noise taken out); None likewise.
    sum: the entries' sum, an estimate of the trace.
    sum_stderr: its standard error over the probes.
    degrees: degrees of freedom of that; infinite where exact, None after a single pass.
    arithmetic: what rounding may add to the sum.
    method: `hutchinson` or `exact`.
    reason: why.
    num_passes: passes that were made.
    num_terms: terms with a probe of their own in each.
    converged: whether relative_error is at most rtol.
    cost: products and time.
    """

    diagonal: torch.Tensor
    stderr: torch.Tensor | None
    entry_degrees: float | None
    relative_error: float | None
    sum: float
    sum_stderr: float | None
    degrees: float | None
    arithmetic: float
    method: DiagonalMethod
    reason: str
    num_passes: int
    num_terms: int
    converged: bool
    cost: Cost


def diagonal(
    operator: LinearOperator,
    *,
    method: DiagonalChoice = "auto",
    rtol: float = 0.1,
    max_passes: int = 300,
    seed: int = 0,
    noise: float | None = None,
    observer: Observer = SILENT,
) -> DiagonalResult:
    """diag(A) = sum_t E[z_t * (A_t z_t)], entry by entry, with random signs z_t of its own for every term and pass.

    Bekas, Kokiopoulou, Saad 2007 (Appl. Numer. Math. 57); unbiased, the variance of entry i over a pass is the sum of
    the squares of the other entries in row i of each term. The standard error of every entry comes from the passes'
    spread, moderated by that of all entries: see `accuracy.entries`.

    `exact` takes the operator's own way, P products with unit vectors or less, and one product for the rows' norms, to
    which the rounding is relative; `auto` takes it where it is no
    dearer than the passes that a pilot foretells.

    Args:
        operator: the matrix, a sum of terms.
        method: `auto`, `hutchinson` or `exact`.
        rtol: the norm of all standard errors over the norm of the diagonal, to reach.
        max_passes: passes after which it stops and says so.
        seed: of the probes.
        noise: relative error of a product; None: as the operator knows it. The errors hold it too.
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
    return _Run(operator, rtol, max_passes, seed, observer, noise_of(operator, noise)).result_of(method)


class _Run:
    def __init__(
        self, operator: LinearOperator, rtol: float, max_passes: int, seed: int, observer: Observer, noise: float
    ) -> None:
        self.noise = noise
        self.operator, self.rtol, self.max_passes = operator, rtol, max_passes
        self.seed, self.observer = seed, observer
        self.meter = Meter(operator)
        self.num_passes = 0
        self.mean, self.squares = operator.space.zeros(), operator.space.zeros()  # Welford 1962, in units of `unit`
        self.unit = 0.0  # a power of two as large as the first pass's entries, whose squares would be lost if small
        self.forms: list[np.ndarray] = []  # of every group, a pass each
        self._told = "diagonal"  # for progress
        self.reason = "asked for"
        self.until = 0  # passes that were decided on
        self.is_decided = False
        observer.ledger.resume("probes", operator, self)

    def state(self) -> dict[str, Any]:
        """The mean and the spread of the passes so far, and what was decided after them."""
        return {
            "vectors": torch.stack([self.mean, self.squares]),
            "forms": np.array(self.forms).reshape(len(self.forms), self.operator.terms.number),
            "decided": [self.num_passes, self.until, self.is_decided, self.reason, self.unit],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Puts it back."""
        self.mean, self.squares = state["vectors"]
        self.forms = list(state["forms"])
        self.num_passes, self.until, self.is_decided, self.reason, self.unit = state["decided"]

    def result_of(self, method: DiagonalChoice) -> DiagonalResult:
        try:
            if method == "exact":
                return self._exact()
            exact = self.operator.diagonal_cost
            if method == "auto" and exact <= _PILOT:
                self.reason = f"it takes {counted(exact, 'product')}"
                return self._exact()
            self.observer.begin("diagonal")
            self._draw(self.until)
            while True:
                planned = self._planned()
                if method == "auto" and self.num_passes and not self.is_decided:
                    if exact <= min(_WORTH * (planned - self.num_passes), self.max_passes):
                        self.reason = f"the first passes predict {planned}, and {exact} give it exactly"
                        return self._exact()
                    self.reason = f"the first passes predict {planned}, and {exact} would give it exactly"
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
        least = self.num_passes
        if self.num_passes > 1 and not self._errors().is_enough:
            least = PASSES_OF_FEW_SIGNS
        self._told = (
            "not told from its noise"
            if error is None
            else f"relative error {error:.2g} after {counted(self.num_passes, 'pass')}"
        )
        if error is None or error <= self.rtol:
            return least
        wanted = min(self.num_passes * (error / self.rtol) ** 2, 1e9)
        return max(self.num_passes + 1, least, math.ceil(wanted))

    def _draw(self, until: int) -> None:
        operator = self.operator
        while self.num_passes < until:
            groups = operator.terms
            drawn = groups.space.zeros()
            forms = torch.zeros(groups.number, 1, dtype=drawn.dtype, device=drawn.device)
            for terms in groups.ranges:
                probes = groups.space.signs(self.seed, 21, self.num_passes, rows=terms)
                entries = groups.products(terms, probes).mul_(probes)
                forms[terms.start : terms.stop] = groups.space.segment_sums(entries, [operator.space.dim])
                drawn += entries.sum(0)
            drawn = groups.total(drawn)
            of_groups = groups.of_all(forms)[:, 0].to("cpu", torch.float64).numpy()
            require_finite(of_groups, "a quadratic form of the matrix")
            size = float(operator.space.total(drawn.abs()))
            require_usable(size, "a product")
            unit = self.unit or _unit_of(size)
            drawn = drawn / unit if unit else drawn
            with undisturbed():
                self.num_passes += 1
                self.unit = unit
                self.forms.append(of_groups)
                step = drawn - self.mean
                self.mean += step / self.num_passes
                self.squares += step * (drawn - self.mean)
            self.observer.advance(self.num_passes, self._told, until - self.num_passes)

    def _errors(self) -> EntryErrors:
        return of_entries(self.operator.space, self.mean, self.squares, np.stack(self.forms), self.noise)

    def _relative_error(self) -> float | None:
        """None where the diagonal is not told from its noise."""
        space = self.operator.space
        noise, square = self._errors().total, float(space.inner(self.mean, self.mean))
        require_finite([noise, square], "a diagonal entry")
        if square == 0.0:
            return None
        return math.sqrt(noise / max(square - noise, 1e-12 * square))

    def _exact(self) -> DiagonalResult:
        total = self.operator.diagonal_cost
        self.observer.begin("diagonal, exactly", float(total))
        found = self.operator.exact_diagonal(
            KeptSteps("diagonal, exactly", self.operator, total, "diagonal", self.observer)
        )
        space = self.operator.space
        whole = float(space.total(found))
        size = max(abs(whole), float(space.total(found.abs())))
        require_usable(size, "a diagonal entry")
        # random signs z: the mean of (A z)_i^2 is the square of row i
        image = self.operator.matvec(space.signs(self.seed, 25)[0])
        size = max(size, float(space.norm(image)))  # the matrix may be far larger than its diagonal
        unit = _unit_of(float(space.total(found.abs())) + float(space.total(image.abs()))) or 1.0
        rows = (found / unit).square() + (image / unit).square()
        least = least_of(self.operator, size)
        stderr = rounding_of_entries(space, rows, self.noise) * unit + least
        relative = float(space.norm(stderr / unit) / space.norm(found / unit)) if size else 0.0
        return DiagonalResult(
            diagonal=found,
            stderr=stderr,
            entry_degrees=math.inf,
            relative_error=relative,
            sum=whole,
            sum_stderr=0.0,
            degrees=math.inf,
            arithmetic=NOISE_OF_TRACES * self.noise * size + space.dim * least,
            method="exact",
            reason=self.reason,
            num_passes=total,
            num_terms=1,
            converged=relative <= self.rtol,
            cost=self.meter.cost(),
        )

    def _result(self) -> DiagonalResult:
        several, space = self.num_passes > 1, self.operator.space
        errors = self._errors() if several else None
        sizes = np.abs(np.stack(self.forms)).sum(axis=0)
        alone = float((sizes**2).sum()) > ONE_GROUP * float(sizes.sum()) ** 2 or not sizes.any()
        if errors is not None and self.num_passes < LEAST_PASSES and (alone or not errors.is_enough):
            several, errors = False, None  # one group decides: nothing is known of its spread
        error = self._relative_error() if several else None
        unit = self.unit or 1.0
        total, size = unit * float(space.total(self.mean)), unit * float(space.total(self.mean.abs()))
        least = least_of(self.operator, size)
        # of every group, the variance of the sum is twice the sum of the entries' variances
        spread = 2 * float(space.total(self.squares)) / (self.num_passes * (self.num_passes - 1)) if several else None
        return DiagonalResult(
            diagonal=(self.mean if errors is None else self.mean.masked_fill(errors.zero, 0.0)) * unit,
            stderr=errors.stderr * unit + least if errors is not None else None,
            entry_degrees=errors.degrees if errors is not None else None,
            relative_error=error,
            sum=total,
            sum_stderr=None if spread is None else unit * math.sqrt(spread),
            degrees=float(self.num_passes - 1) if several else None,
            arithmetic=NOISE_OF_TRACES * self.noise * max(abs(total), size) + space.dim * least,
            method="hutchinson",
            reason=self.reason,
            num_passes=self.num_passes,
            num_terms=self.operator.terms.number,
            converged=errors is not None and errors.is_enough and (error is None or error <= self.rtol),
            cost=self.meter.cost(),
        )


def _unit_of(size: float) -> float:
    """The power of two below it; 0 of zero and of what is not finite."""
    return 2.0 ** math.floor(math.log2(size)) if 0.0 < size < math.inf else 0.0
