"""A trace by random probes, an independent one for every term of the operator, until its interval is narrow enough."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from curvtool.critical import undisturbed
from curvtool.estimators.accuracy.forms import (
    PASSES_OF_FEW_SIGNS,
    BlockFacts,
    GroupSpread,
    facts_of_blocks,
    floor_of_block,
    of_blocks,
    of_groups,
)
from curvtool.estimators.accuracy.noise import NOISE_OF_TRACES, Estimate
from curvtool.estimators.known_space import KnownSpace
from curvtool.estimators.observer import Observer
from curvtool.linalg.intervals import Interval, look_error, student_t_quantile
from curvtool.linalg.space import VectorSpace
from curvtool.linalg.usable import require_finite, require_usable
from curvtool.operators.base import LinearOperator

FEWEST_PASSES = 8  # of the pilot: a dominating sample of two signs among others is unseen in all once in 256 runs
_MOST_POINTS = 60  # of the history
_FACTS = ("spread", "lengths", "fourth")  # of a pair of passes: |d - d'|^2, |d|^2 + |d'|^2, and the sum of the fourth
# powers of (d - d') / |d - d'|, d = z * (A z)


@dataclass(frozen=True)
class Blocks:
    """Diagonal blocks whose traces come from the same probes.

    Attributes:
        sizes: the lengths of the vector's consecutive segments (the parameters), adding up to P.
        members: the segments of each block, by the block's name.
    """

    sizes: Sequence[int]
    members: Mapping[str, Sequence[int]]

    def floors(self, scale: float) -> list[float]:
        """The scale of each block's rounding in a matrix of that scale."""
        dim = sum(self.sizes)
        return [floor_of_block(scale, sum(self.sizes[i] for i in each), dim) for each in self.members.values()]


@dataclass(frozen=True)
class BlockTrace:
    """Attributes:
    value: the estimate of the block's trace.
    stderr: its standard error over the probes; None where fewer than two passes were made, or fewer than five of
        one group.
    degrees: degrees of freedom of that; infinite where nothing random is left, None where there is none.
    arithmetic: what rounding may add.
    """

    value: float
    stderr: float | None
    degrees: float | None
    arithmetic: float

    @property
    def ci95(self) -> tuple[float, float] | None:
        """The 95 % interval of this block alone."""
        if self.stderr is None or self.degrees is None:
            return None
        return Estimate(self.value, self.stderr, self.degrees, self.arithmetic).interval()


class ProbeSearch:
    """tr A = tr(Q A Q^T) + sum_t E[y_t^T A_t y_t], y_t = (I - Q^T Q) z_t with random signs z_t for every group.

    Passes are made in pairs, for what two products of one group say of their variance: see `of_groups`. After a pilot
    the number of passes is planned from it; the error probability is spread over the looks, so that stopping when the
    interval is narrow enough leaves it valid.

    Args:
        operator: the matrix, a sum of groups' matrices.
        rtol: half-width of the interval over the estimate, to reach.
        max_passes: passes after which it stops.
        seed: of the probes; a group's probe in a pass depends on nothing else.
        observer: hears progress.
        noise: relative error of a product.
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
        noise: float,
        *,
        known: KnownSpace | None = None,
        blocks: Blocks | None = None,
        alpha: float = 0.05,
    ) -> None:
        self.operator, self.rtol, self.max_passes, self.seed, self.observer = operator, rtol, max_passes, seed, observer
        self.noise, self.known, self.blocks, self.alpha = noise, known, blocks, alpha
        self.look = 0
        self.interval: Interval | None = None
        self.scale = 0.0  # the sum of the groups' Frobenius norms, as estimated
        self.size = 0.0  # of the largest product's entries: their squares may be lost, and a form may cancel to nothing
        self.is_settled = False  # whether enough is known of the spread to believe it
        self.forms: list[np.ndarray] = []  # y^T A_t y of every group, a pass each
        self.pairs: list[np.ndarray] = []  # of every group, a pair of passes each: see `_FACTS`
        self._block_sums = np.zeros((6, operator.terms.number, len(blocks.members) if blocks else 0))
        self._membership = _membership(blocks) if blocks else None
        self._forms_before = np.zeros((0, operator.terms.number))
        self._pairs_before = np.zeros((0, operator.terms.number, len(_FACTS)))
        observer.ledger.resume("probes", operator, self)

    def state(self) -> dict[str, Any]:
        """The passes so far; what was decided after them is decided again from them."""
        forms = [*self.forms, *self._forms_before[len(self.forms) :]]
        pairs = [*self.pairs, *self._pairs_before[len(self.pairs) :]]
        num = self.operator.terms.number
        return {
            "forms": np.array(forms).reshape(len(forms), num),
            "pairs": np.array(pairs).reshape(len(pairs), num, len(_FACTS)),
            "block_sums": self._block_sums,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """These passes are not made again."""
        self._forms_before, self._pairs_before = state["forms"], state["pairs"]
        self._block_sums = state["block_sums"]

    @property
    def num_passes(self) -> int:
        """Passes so far."""
        return len(self.forms)

    @property
    def is_narrow(self) -> bool:
        """Whether the last look's interval is as narrow as asked for, and its spread can be believed."""
        found = self.interval
        return found is not None and self.is_settled and found.half_width <= self.rtol * abs(found.value)

    @property
    def planned_passes(self) -> int:
        """Passes, those made included, at which the next look's interval should be narrow enough.

        A standard deviation of the estimated variance, sqrt(2 / degrees) of it, is to spare: further looks cost width.
        """
        interval, num = self.interval, self.num_passes
        assert interval is not None
        target = self.rtol * abs(interval.value) - interval.arithmetic
        quantile = student_t_quantile(1.0 - look_error(self.look + 1, self.alpha) / 2, interval.degrees)
        spare = 1 + math.sqrt(2 / interval.degrees)
        wanted = num * (quantile * interval.stderr / target) ** 2 * spare if target > 0 else math.inf
        planned = max(num + 1, math.ceil(min(wanted, num * 1000)))
        return planned + planned % 2

    def pilot(self) -> None:
        """The first passes and the first look: a few, and more where a few groups decide, or a few signs."""
        self._draw(min(FEWEST_PASSES, self.max_passes))
        while self.num_passes < min(PASSES_OF_FEW_SIGNS, self.max_passes) and not self._facts().is_enough:
            self._draw(min(self.num_passes + 2, self.max_passes))
        self.is_settled = self.num_passes >= PASSES_OF_FEW_SIGNS or (self.num_passes > 1 and self._facts().is_enough)
        self.take_look()

    def finish(self) -> None:
        """Further passes and looks, until the interval is narrow enough or no pass is left."""
        while not self.is_narrow and self.num_passes < self.max_passes:
            until = min(self.planned_passes, self.max_passes)
            self.look += 1
            self._draw(until)
            self.take_look()

    def take_look(self) -> None:
        """The interval from the passes so far, at the price of this look; needs two passes."""
        if self.num_passes < 2:
            return
        found = self._facts()
        self.scale = found.scale
        require_usable(max(self.size, self.scale), "a product")
        if not found.is_known:
            return
        value, arithmetic = self.value, NOISE_OF_TRACES * self.noise * max(abs(self.value), found.scale)
        estimate = Estimate(value, math.sqrt(found.variance / self.num_passes), found.degrees, arithmetic)
        half = estimate.half_width(look_error(self.look, self.alpha))
        assert half is not None and estimate.stderr is not None
        self.interval = Interval(value, estimate.stderr, half, found.degrees, arithmetic)

    def _facts(self) -> GroupSpread:
        return of_groups(np.stack(self.forms), np.stack(self.pairs), self.noise)

    @property
    def value(self) -> float:
        """The estimate from the passes so far, of which there is one at least."""
        exact = self.known.trace if self.known else 0.0
        return exact + float(np.stack(self.forms).mean(axis=0).sum())

    def history(self) -> tuple[tuple[float, float, float | None], ...]:
        """Passes made, the estimate from them, and its standard error, at as many places as a picture shows."""
        num = self.num_passes
        if not num:
            return ()
        forms = np.stack(self.forms)
        exact = self.known.trace if self.known else 0.0
        made = sorted({round(each) for each in np.geomspace(1, num, min(num, _MOST_POINTS))})
        found: list[tuple[float, float, float | None]] = []
        for passes in made:
            variance = None
            if passes > 1:
                variance = of_groups(forms[:passes], np.stack(self.pairs[: passes // 2]), self.noise).variance
            spread = None if variance is None else math.sqrt(variance / passes)
            found.append((float(passes), exact + float(forms[:passes].mean(axis=0).sum()), spread))
        return tuple(found)

    def block_traces(self) -> dict[str, BlockTrace] | None:
        """Each block's trace, E[z_l^T (A z)_l]; None where none were asked for."""
        if self.blocks is None or not self.forms:
            return None
        num = self.num_passes
        facts = BlockFacts(*self._block_sums)
        values = facts.sums.sum(axis=0) / num
        floors = np.array(self.blocks.floors(self.scale))
        errors = of_blocks(facts, num, self.noise, floors) if num > 1 else [None] * len(values)
        return {
            name: BlockTrace(float(v), None, None, 0.0) if e is None else BlockTrace(float(v), *e)
            for name, v, e in zip(self.blocks.members, values, errors, strict=True)
        }

    def _draw(self, until: int) -> None:
        """Passes up to that number, two at a time where two are left."""
        while self.num_passes < until:
            first = self.num_passes
            num = min(2, until - first) if first % 2 == 0 else 1
            known = num == 2 and first + 2 <= len(self._forms_before) and first // 2 < len(self._pairs_before)
            if known or (num == 1 and first < len(self._forms_before)):
                forms, blocks = self._forms_before[first : first + num], None
                pair = self._pairs_before[first // 2] if known else None
            else:
                forms, pair, blocks = self._passes(first, num)
            with undisturbed():
                self.forms.extend(forms)
                if pair is not None:
                    self.pairs.append(pair)
                if blocks is not None:
                    self._block_sums += blocks
            if self.num_passes > len(self._forms_before):
                self.observer.advance(self.num_passes, self._running(), until - self.num_passes)

    def _passes(self, first: int, num: int) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        """One pass, or two: every group's forms (num, T), the pair's facts (T, 3), and the blocks' (6, T, B).

        Each rank makes those of its own groups; one transfer to the host.
        """
        groups = self.operator.terms
        space = groups.space
        sizes = [space.dim] if self.blocks is None else list(self.blocks.sizes)
        rows = num + (len(_FACTS) if num == 2 else 0)
        columns = rows * len(sizes) + 1
        numbers = torch.zeros(groups.number, columns, dtype=space.dtype, device=space.device)
        for terms in groups.ranges:
            entries = [self._entries(terms, number) for number in range(first, first + num)]
            found = [space.segment_sums(each, sizes) for each in entries]
            if num == 2:
                found += _compared(space, entries[0], entries[1], sizes)
            numbers[terms.start : terms.stop, : sum(each.shape[1] for each in found)] = torch.cat(found, dim=1)
        every = groups.of_all(numbers).to(device="cpu", dtype=torch.float64).numpy()
        require_finite(every, "a quadratic form of the matrix")
        segments = every[:, :-1].reshape(len(every), rows, len(sizes)).copy()
        forms = segments[:, :num].sum(axis=2).T
        pair = None
        if num == 2:
            whole, unit = segments[:, num:].sum(axis=2), every[:, -1] ** 2
            self.size = max(self.size, float(every[:, -1][whole[:, 1] > 0].max(initial=0.0)))
            pair = np.column_stack([whole[:, 0] * unit, whole[:, 1] * unit, whole[:, 2]])
            segments[:, num + 2] *= whole[:, :1] ** 2  # from shares to what they are shares of
        if self._membership is None:
            return forms, pair, None
        in_blocks = np.moveaxis(segments @ self._membership, 1, 0)
        of_pair = None
        if num == 2:
            spreads, lengths, fourth = in_blocks[num:]
            of_pair = spreads, lengths, fourth
        facts = facts_of_blocks(in_blocks[:num], of_pair, self.noise, np.array(sizes) @ self._membership)
        if num == 2:
            facts[2:4] *= unit[:, None]
        return forms, pair, facts

    def _entries(self, terms: range, number: int) -> torch.Tensor:
        """z_t * (A_t z_t) of consecutive groups, shape (t, P): unbiased for the diagonal, and its sum for the trace.

        Beside a known space A_t stands for (I - Q^T Q) A_t (I - Q^T Q).
        """
        space = self.operator.terms.space
        signs = space.signs(self.seed, 14 if self.known else 4, number, rows=terms)
        if self.known is None:
            return self.operator.terms.products(terms, signs).mul_(signs)
        images = self.operator.terms.products(terms, self.known.complement(signs, self.operator))
        return self.known.complement(images, self.operator).mul_(signs)

    def _running(self) -> str:
        """For progress: at every pass, so not by all of them."""
        if self.num_passes == 1:
            return f"trace {self.value:.5g}"
        last = np.stack(self.pairs[-8:])
        spread = math.sqrt(float(last[:, :, 0].mean(axis=0).sum()) / self.num_passes)
        return f"trace {self.value:.5g} +- {spread:.2g}"


def _compared(space: VectorSpace, one: torch.Tensor, other: torch.Tensor, sizes: Sequence[int]) -> list[torch.Tensor]:
    """What two passes of the same groups say of their spread, in the order of `_FACTS`, each (t, segments);
    and each group's unit, (t, 1), the first two being in its square: squares of small entries would be lost.

    Args:
        one: z * (A z), shape (t, P); overwritten.
        other: likewise of another probe.
    """
    whole, tiny = [space.dim], torch.finfo(space.dtype).tiny
    unit = space.segment_sums(one.abs(), whole) + space.segment_sums(other.abs(), whole)
    unit = torch.where(unit > 0, unit, torch.ones_like(unit)).log2().floor().exp2()  # so that no digit is lost
    one, other = one.div_(unit), other.div_(unit)
    lengths = space.segment_sums(one.square(), sizes) + space.segment_sums(other.square(), sizes)
    difference = one.sub_(other)
    spreads = space.segment_sums(torch.square(difference, out=other), sizes)
    shares = other.div_(spreads.sum(1, keepdim=True).clamp_min(tiny))  # squares that add up to one
    return [spreads, lengths, space.segment_sums(shares.square_(), sizes), unit]


def _membership(blocks: Blocks) -> np.ndarray:
    """1 where a segment belongs to a block, shape (segments, blocks)."""
    matrix = np.zeros((len(blocks.sizes), len(blocks.members)))
    for column, segments in enumerate(blocks.members.values()):
        matrix[list(segments), column] = 1.0
    return matrix
