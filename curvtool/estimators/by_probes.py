"""A trace by random probes, an independent one for every term of the operator, until its interval is narrow enough."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from curvtool.critical import undisturbed
from curvtool.errors import not_finite
from curvtool.estimators.known_space import KnownSpace
from curvtool.estimators.observer import Observer
from curvtool.linalg.intervals import Interval, look_error, stratified_interval, student_t_quantile
from curvtool.operators.base import LinearOperator

_DEGREES_WANTED = 32  # of freedom at the first look, so that its interval is not wide for want of them
_MOST_POINTS = 60  # of the history
_PASSES_WITHOUT_SPREAD = 16  # alike before no error is claimed: one coin falls alike so often once in 2^15


@dataclass(frozen=True)
class Blocks:
    """Diagonal blocks whose traces come from the same probes.

    Attributes:
        sizes: the lengths of the vector's consecutive segments (the parameters), adding up to P.
        members: the segments of each block, by the block's name.
    """

    sizes: Sequence[int]
    members: Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class BlockTrace:
    """Attributes:
    value: the estimate of the block's trace.
    stderr: its standard error over the probes; None where fewer than two passes were made.
    """

    value: float
    stderr: float | None


class ProbeSearch:
    """tr A = tr(Q A Q^T) + sum_t E[y_t^T A_t y_t], y_t = (I - Q^T Q) z_t with random signs z_t for every term.

    The interval is Student's t over the terms' own variances. After a pilot the number of passes is planned from them;
    the error probability is spread over the looks, so that stopping when it is narrow enough leaves it valid.

    Args:
        operator: the matrix, a sum of terms.
        rtol: half-width of the interval over the estimate, to reach.
        max_passes: passes after which it stops.
        seed: of the probes; a term's probe in a pass depends on nothing else.
        observer: hears progress.
        known: a space whose part is known exactly.
        blocks: diagonal blocks to estimate too (not beside a known space).
        alpha: the error probability of the interval.
    """

    def __init__(
        self,
        operator: LinearOperator,
        rtol: float,
        max_passes: int,
        seed: int,
        observer: Observer,
        *,
        known: KnownSpace | None = None,
        blocks: Blocks | None = None,
        alpha: float = 0.05,
    ) -> None:
        self.operator, self.rtol, self.max_passes, self.seed, self.observer = operator, rtol, max_passes, seed, observer
        self.known, self.blocks, self.alpha = known, blocks, alpha
        self.passes: list[np.ndarray] = []
        self.interval: Interval | None = None
        self.look = 0
        self._sums = np.zeros((2, operator.num_terms))  # of the passes' forms, and of their squares
        self._block_sums = np.zeros((2, operator.num_terms, len(blocks.members) if blocks else 0))
        self._membership = _membership(blocks) if blocks else None
        self._made_before = np.zeros((0, operator.num_terms))
        observer.resume("probes", operator, self)

    def state(self) -> dict[str, Any]:
        """The passes so far; what was decided after them is decided again from them."""
        made = [*self.passes, *self._made_before[len(self.passes) :]]
        passes = np.array(made).reshape(len(made), self.operator.num_terms)
        return {"passes": passes, "block_sums": self._block_sums}

    def restore(self, state: dict[str, Any]) -> None:
        """These passes are not made again."""
        self._made_before, self._block_sums = state["passes"], state["block_sums"]

    @property
    def is_narrow(self) -> bool:
        """Whether the last look's interval is as narrow as asked for."""
        return self.interval is not None and self.interval.half_width <= self.rtol * abs(self.interval.value)

    @property
    def planned_passes(self) -> int:
        """Passes, those made included, at which the next look's interval should be narrow enough.

        A standard deviation of the estimated variance, sqrt(2 / degrees) of it, is to spare: further looks cost width.
        """
        interval, num = self.interval, len(self.passes)
        assert interval is not None
        target = self.rtol * abs(interval.value)
        quantile = student_t_quantile(1.0 - look_error(self.look + 1, self.alpha) / 2, interval.degrees)
        spare = 1 + math.sqrt(2 / interval.degrees)
        wanted = num * (quantile * interval.stderr / target) ** 2 * spare if target > 0 else math.inf
        return max(num + 1, math.ceil(min(wanted, num * 1000)))

    def pilot(self) -> None:
        """The first passes and the first look."""
        self._draw(min(max(3, 1 + math.ceil(_DEGREES_WANTED / self.operator.num_terms)), self.max_passes))
        self.take_look()
        if self.interval is not None and self.interval.stderr == 0 and len(self.passes) < self.max_passes:
            self._draw(min(_PASSES_WITHOUT_SPREAD, self.max_passes))
            self.take_look()  # nothing was decided before: no error is spent

    def finish(self) -> None:
        """Further passes and looks, until the interval is narrow enough or no pass is left."""
        while not self.is_narrow and len(self.passes) < self.max_passes:
            until = min(self.planned_passes, self.max_passes)
            self.look += 1
            self._draw(until)
            self.take_look()

    def take_look(self) -> None:
        """The interval from the passes so far, at the price of this look; needs two passes."""
        if len(self.passes) < 2:
            return
        found = stratified_interval(np.stack(self.passes), self.look, self.alpha)
        exact = self.known.trace if self.known else 0.0
        self.interval = Interval(found.value + exact, found.stderr, found.half_width, found.degrees)

    @property
    def value(self) -> float:
        """The estimate from the passes so far, of which there is one at least."""
        exact = self.known.trace if self.known else 0.0
        return exact + float(np.stack(self.passes).mean(axis=0).sum())

    def history(self) -> tuple[tuple[float, float, float | None], ...]:
        """Passes made, the estimate from them, and its standard error, at as many places as a picture shows."""
        num = len(self.passes)
        if not num:
            return ()
        forms = np.stack(self.passes)
        exact = self.known.trace if self.known else 0.0
        made = sorted({round(each) for each in np.geomspace(1, num, min(num, _MOST_POINTS))})
        found: list[tuple[float, float, float | None]] = []
        for passes in made:
            some = forms[:passes]
            spread = None if passes == 1 else float(np.sqrt(some.var(axis=0, ddof=1).sum() / passes))
            found.append((float(passes), exact + float(some.mean(axis=0).sum()), spread))
        return tuple(found)

    def block_traces(self) -> dict[str, BlockTrace] | None:
        """Each block's trace, E[z_l^T (A z)_l]; None where none were asked for."""
        if self.blocks is None or not self.passes:
            return None
        num = len(self.passes)
        sums, squares = self._block_sums
        values = sums.sum(axis=0) / num
        errors: list[float | None] = [None] * len(values)
        if num > 1:
            variances = np.maximum(squares - sums**2 / num, 0.0).sum(axis=0) / (num - 1)
            errors = list(np.sqrt(variances / num))
        names = self.blocks.members
        return {
            name: BlockTrace(float(v), None if e is None else float(e))
            for name, v, e in zip(names, values, errors, strict=True)
        }

    def _draw(self, until: int) -> None:
        while len(self.passes) < until:
            made, of_blocks = self._one_pass(len(self.passes))
            with undisturbed():
                self.passes.append(made)
                self._sums += np.stack([made, made**2])
                if of_blocks is not None:
                    self._block_sums += np.stack([of_blocks, of_blocks**2])
            if len(self.passes) > len(self._made_before):
                self.observer.advance(len(self.passes), self._running(), until - len(self.passes))

    def _one_pass(self, number: int) -> tuple[np.ndarray, np.ndarray | None]:
        """y_t^T A_t y_t of every term, of which each rank makes its own, and of every block where there are blocks
        that do not have it yet; one transfer to the host."""
        if number < len(self._made_before):
            return self._made_before[number], None
        space = self.operator.probe_space
        sizes = [space.dim] if self.blocks is None else list(self.blocks.sizes)
        forms = torch.zeros(self.operator.num_terms, len(sizes), dtype=space.dtype, device=space.device)
        for terms in self.operator.term_ranges:
            probes = space.signs(self.seed, 14 if self.known else 4, number, rows=terms)
            if self.known is not None:
                probes = self.known.complement(probes, self.operator)
            found = space.segment_inners(probes, self.operator.term_products(terms, probes), sizes)
            forms[terms.start : terms.stop] = found
        numbers = self.operator.of_all_terms(forms).to(device="cpu", dtype=torch.float64).numpy()
        if not np.isfinite(numbers).all():
            raise not_finite("a quadratic form of the Hessian")
        if self._membership is None:
            return numbers[:, 0], None
        return numbers.sum(axis=1), numbers @ self._membership

    def _running(self) -> str:
        """For progress: at every pass, so not by all of them."""
        num, (sums, squares) = len(self.passes), self._sums
        value = (self.known.trace if self.known else 0.0) + sums.sum() / num
        if num == 1:
            return f"trace {value:.5g}"
        variance = np.maximum(squares - sums**2 / num, 0.0).sum() / (num - 1)
        return f"trace {value:.5g} +- {(variance / num) ** 0.5:.2g}"


def _membership(blocks: Blocks) -> np.ndarray:
    """1 where a segment belongs to a block, shape (segments, blocks)."""
    matrix = np.zeros((len(blocks.sizes), len(blocks.members)))
    for column, segments in enumerate(blocks.members.values()):
        matrix[list(segments), column] = 1.0
    return matrix
