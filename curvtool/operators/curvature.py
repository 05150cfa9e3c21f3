"""What all matrices over the parameters share: A = (1/W) sum_i A_i over the samples, batch by batch."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
import torch

from curvtool.cluster.solo import Solo
from curvtool.errors import LoadError, OutOfMemory
from curvtool.linalg.sketch import Sketch
from curvtool.operators.base import LinearOperator
from curvtool.operators.block import Block
from curvtool.operators.calibration import Calibration
from curvtool.operators.data_sum import mean_over_batches, pieces_of, split, sum_of
from curvtool.operators.distribution import SharedParameters, SharedSamples
from curvtool.operators.execution import Execution
from curvtool.operators.noise import PLAINLY, measured_noise, precise_product, size_in_float64
from curvtool.operators.product_ways import BatchMatrix
from curvtool.operators.products import Parts, stacked
from curvtool.operators.sample_terms import SampleTerms, group_size_of
from curvtool.operators.stack import Stack
from curvtool.problem.validation import find_non_finite

if TYPE_CHECKING:
    from curvtool.problem.problem import Problem


class CurvatureOperator(LinearOperator):
    """A symmetric matrix over the parameters, a mean over samples; also the sum of the matrices of groups of samples.

    Vectors are flat: the parameters in the problem's order, each in its own row-major order. On several ranks each sums
    over its own samples, and each holds its part of every vector: a product is one all-gather of the vector and one
    reduce-scatter of the result, together as much as one all-reduce of P numbers.

    Args:
        problem: model, data and loss.
        batch_size: samples a batch at most; a batch lies within a part of the data. None chooses one that the memory
            budget allows. Where batches have statistics of their own (`Problem.statistics_batch`), these are the
            batches whatever is given.
        mode: how products are run: `auto`, `kept`, `fresh`, `forward` or `compiled`.
        memory_budget: bytes for graphs and vectors; half of the free memory if None.
        group_size: samples of a term; `default_group_size` of the data if None; whole batches where these have
            statistics.
        form: of the model's operations: `auto` (the fastest), `torch`, `rewritten` or `channels-last`.
        cluster: the ranks that share the samples; this process alone if None.
        calibration: how ways to run a product compared on this problem before; taken anew if None.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        batch_size: int | None = None,
        mode: str = "auto",
        memory_budget: int | None = None,
        group_size: int | None = None,
        form: str = "auto",
        cluster: Solo | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        cut = problem.sharded
        self.cluster = cut.cluster if cut is not None else cluster or Solo()
        self.shared = SharedSamples(problem, self.cluster) if cut is None else SharedParameters(problem, self.cluster)
        super().__init__(self.shared.space)
        self.problem = problem
        self.shapes = [p.shape for p in problem.parameters.values()]
        self.execution = Execution(problem, self.make_matrix, mode, memory_budget, form, calibration)
        samples = self.shared.samples
        batch_size = problem.statistics_batch or batch_size
        self.batch_size = self.piece_size = batch_size or self.execution.batch_size(max(len(samples), 1))
        self._may_halve = batch_size is None and cut is None
        parts = self.shared.batches(self.batch_size)
        self.batches = [rows for part in parts for rows in part]
        self._ends = list(accumulate(map(len, parts)))  # batches up to the end of each part of the data
        self.groups = problem.ranges(group_size_of(problem, group_size))
        tried = self.batches[0] if self.batches else problem.first(1)
        self.stack = Stack(self.execution, self.groups, tried)
        self.block = Block(self.execution, tried)
        one_by_one = problem.statistics_batch is not None and len(self.groups[0]) > self.batch_size
        if cut is not None or one_by_one:  # a stack maps over groups, each of which would be one batch
            self.stack.height, self.stack.suits_whole = 1, False
        if cut is not None:  # no rule maps a collective over several vectors
            self.block.width = 1
        self._block_width: int | None = None  # where several ranks agreed on it
        self._whole_by_terms: bool | None = None  # likewise
        self._vectors_budget = self.cluster.least(self.execution.memory_budget) // 4

    @abstractmethod
    def make_matrix(self, problem: Problem) -> BatchMatrix:
        """The matrix of a batch of samples."""

    @property
    def noise(self) -> float:
        """The relative error of a product, ||fl(A v) - A v|| / ||A v|| for a random v, the same on all ranks.

        As it was set; else measured at the first reading, on samples of all the data (`measured_noise`), and for
        differences of gradients by two steps over all data.
        """
        if self._noise is None:
            if self.execution.is_approximate:
                own = self.difference_error()
            else:
                own = measured_noise(type(self), self.problem, memory_budget=self.execution.memory_budget)
            self._noise = max(self.cluster.gather_objects(own))
        return max(self._noise, self.space.eps)

    @noise.setter
    def noise(self, measured: float | None) -> None:
        self._noise = measured

    def vanished(self) -> float:
        """As the same products in float64 show (`size_in_float64`), the largest of all ranks."""
        return max(self.cluster.gather_objects(size_in_float64(type(self), self.problem, self.execution.memory_budget)))

    def precise_matvec(self, vector: torch.Tensor) -> torch.Tensor | None:
        """A v in float64 over all data (`precise_product`): this rank's part, counted as a product.

        None where that costs more than a fifth of the run so far, or cannot be had.
        """
        return precise_product(self, vector)

    def own_part(self, problem: Problem) -> CurvatureOperator:
        """The same matrix of a problem on the same data, of this rank's samples alone, in the same batches; run
        plainly, in pieces of half the size where the size may be chosen."""
        own = type(self)(problem, batch_size=self.batch_size, memory_budget=self.execution.memory_budget, **PLAINLY)
        own.batches, own._may_halve = self.batches, self._may_halve
        own.piece_size = max(1, self.piece_size // 2) if self._may_halve else self.piece_size
        return own

    def matvec(self, vector: torch.Tensor) -> torch.Tensor:
        """A v, this rank's part of it from that of v."""
        return self.matvec_in_parts(vector, vector.new_empty(0, 0))[0]

    @property
    def block_width(self) -> int:
        """As measured on the first batch: see `Block`; the same on all ranks."""
        if self.cluster.size == 1:
            return self.block.width
        if self._block_width is None:
            self._block_width = self.cluster.least(self.block.width)
        return self._block_width

    @property
    def whole_by_terms(self) -> bool:
        """Whether a product with the whole is faster by stacks of terms: on several ranks where all of them say so.

        A rank's terms are of other samples than its batches, so that ranks that went different ways would leave samples
        out, and take others twice.
        """
        if self.cluster.size == 1:
            return self.stack.suits_whole
        if self._whole_by_terms is None:
            self._whole_by_terms = bool(self.cluster.least(int(self.stack.suits_whole)))
        return self._whole_by_terms

    def matmat(self, vectors: torch.Tensor) -> torch.Tensor:
        """A v for each row v of (k, P), `block_width` of them at a time."""
        width = self.block_width
        if width == 1:
            return super().matmat(vectors)
        return torch.cat([self._block_product(some) for some in vectors.split(width)])

    def _block_product(self, vectors: torch.Tensor) -> torch.Tensor:
        parts = split(self.shared.argument(vectors), self.shapes)
        result = mean_over_batches(
            self.shared.sum_space,
            self.shapes,
            self.batches,
            lambda rows: self._block_sum(rows, parts),
            self.problem.total_weight,
            lead=vectors.shape[:1],
        )
        self.count_products(len(vectors))
        return result

    def _block_sum(self, rows: range, vectors: Sequence[torch.Tensor]) -> Parts:
        """A_b V in parts; one vector after the other where memory does not suffice for all."""
        try:
            return sum_of(self.block.product(piece, vectors) for piece in pieces_of(rows, self.piece_size))
        except OutOfMemory:
            pass
        self.block.shrink()  # out of the handler, which holds what failed
        return stacked([self.batch_product(rows, [v[i] for v in vectors]) for i in range(len(vectors[0]))])

    def matvec_in_parts(
        self, vector: torch.Tensor, against: torch.Tensor, sketch: Sketch | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A v, and the inner products of the rows of `against` with the part of A v that each part of the data adds."""
        against = self.shared.partners(against, self._vectors_budget)
        parts = split(self.shared.argument(vector), self.shapes)
        width = len(against) + (sketch.size if sketch is not None and len(against) else 0)
        running = {0: vector.new_zeros(width)}  # by the number of batches

        def record(index: int, total: torch.Tensor) -> None:
            if len(against) and index + 1 in self._ends:
                found = self.shared.coefficients(against, total)
                running[index + 1] = found if sketch is None else torch.cat([found, sketch(total)])

        result = mean_over_batches(
            self.shared.sum_space,
            self.shapes,
            self.batches,
            lambda rows: self.batch_product(rows, parts),
            self.problem.total_weight,
            record,
        )
        self.count_products(1)
        if not len(against):
            return result, vector.new_empty(0, 0)
        shares = torch.stack([running[end] for end in [0, *self._ends]]).diff(dim=0) / self.problem.total_weight
        return result, self.shared.of_all_parts(shares)

    def batch_product(self, rows: range, vector: Sequence[torch.Tensor], keep: bool = True) -> Parts:
        """A_b v in parts."""
        return self._in_pieces(rows, lambda piece: self.execution.product(piece, vector, keep=keep))

    def _in_pieces(self, rows: range, of_piece: Callable[[range], Parts]) -> Parts:
        """The sum over a batch of what each piece of it gives; the pieces are halved where memory does not suffice.

        The batches themselves stay, so that what is told of the parts of the data stays the same.

        Raises:
            OutOfMemory: CT040, a piece of one sample does not fit, or the batch size was given.
        """
        while True:
            try:
                return sum_of(of_piece(piece) for piece in pieces_of(rows, self.piece_size) or [rows])
            except OutOfMemory:
                if not self._may_halve or min(self.piece_size, len(rows)) == 1:
                    raise
            # out of the handler, which holds what failed
            self.execution.shrink()
            self.piece_size = min(self.piece_size, len(rows)) // 2

    def _at_once(self, rows: range, of_rows: Callable[[range], Parts]) -> Parts:
        """What several batches give in one go, or the sum over pieces where memory does not suffice for that."""
        if len(rows) > self.piece_size:
            try:
                return of_rows(rows)
            except OutOfMemory:
                pass
        return self._in_pieces(rows, of_rows)

    def _runs_of_batches(self) -> list[range]:
        """The batches; as many in one range as stay small where small ones were asked for: calls alone take time there.

        That is for gradients, which need less memory than the products that the size was chosen for.
        """
        fixed = self.problem.sharded is not None or self.problem.statistics_batch is not None
        if self._may_halve or len(self.batches) < 2 or fixed:
            return self.batches
        size = max(1, self.execution.small_batch_size // self.batch_size) * self.batch_size
        return pieces_of(range(self.batches[0].start, self.batches[-1].stop), size)

    @property
    def part_weights(self) -> np.ndarray:
        """Each part's share of the whole weight, in the order of `matvec_in_parts`."""
        return self._part_weights

    @cached_property
    def _part_weights(self) -> np.ndarray:
        ends = zip([0, *self._ends], self._ends, strict=False)
        own = [sum(map(self.problem.weight_of, self.batches[start:stop])) for start, stop in ends]
        weights = self.shared.part_weights(own)
        return np.asarray(weights) / sum(weights)

    @property
    def terms(self) -> SampleTerms:
        """The matrices of the groups of samples."""
        return SampleTerms(self)

    def count_products(self, number: float) -> None:
        """So many products with the whole, each a pass over all samples."""
        self.num_products += number
        self.data_passes += number

    def loss_and_gradient(self) -> tuple[float, torch.Tensor]:
        """L and its gradient (P,), one pass over the data.

        Raises:
            LoadError: CT026, the loss is not finite; it names the first sample that is not.
        """
        values: list[torch.Tensor] = []

        def value_and_gradient(rows: range) -> Parts:
            with self.problem.context(len(rows)):
                value, gradient = self.batch_gradient(rows)
            return [value, *gradient]

        def gradient_of(rows: range) -> Parts:
            value, *gradient = self._at_once(rows, value_and_gradient)
            assert value is not None
            values.append(value)
            return gradient

        runs = self._runs_of_batches()
        gradient = mean_over_batches(self.shared.sum_space, self.shapes, runs, gradient_of, self.problem.total_weight)
        own = torch.stack(values).double().sum() if values else torch.zeros((), dtype=torch.float64)
        loss = float(self.cluster.sum(own.cpu())) / self.problem.total_weight
        if not math.isfinite(loss) or self.cluster.any(not bool(torch.isfinite(gradient).all())):
            row = find_non_finite(self.problem)
            place = "at row" if self.problem.statistics_batch is None else "in the batch from row"
            raise LoadError(
                "CT026",
                "the loss or its gradient is not finite",
                expected="a finite loss and gradient",
                received=f"loss {loss}" + (f", first {place} {row} of the data" if row is not None else ""),
                remedy="check the data's scale and the checkpoint; --dtype float64 tells overflow from a true infinity",
            )
        return loss, gradient

    def batch_gradient(self, rows: range) -> tuple[torch.Tensor, Parts]:
        """The sum of the losses of these samples, a scalar on the device, and its gradient in parts."""
        value = self.problem.loss_sum(self.problem.parameters, self.problem.batch(rows))
        if not rows:
            value = value * 0.0
        if not value.requires_grad:
            return value, [None] * len(self.shapes)
        gradient = torch.autograd.grad(value, list(self.problem.parameters.values()), allow_unused=True)
        return value.detach(), gradient

    def difference_error(self, seed: int = 0) -> float:
        """How far central differences of two steps are apart, relative, over all data along a random vector.

        On a few samples a step may cross no kink that it crosses on many. For `mode="finite-difference"`.
        """
        vector = self.space.normal(seed, 23)
        step = self.execution.difference_step
        found = self.matvec(vector)
        try:
            self.execution.difference_step = replace(step, length=step.length / 3)
            other = self.matvec(vector)
        finally:
            self.execution.difference_step = step
        size = float(self.space.norm(found))
        measured = float(self.space.norm(found - other)) / size if size > 0 else 0.0
        return max(step.error, measured)

    def by_parameter(self, vector: torch.Tensor) -> dict[str, torch.Tensor]:
        """A flat vector with all its coordinates (see `VectorSpace.whole`) as views by parameter name."""
        return dict(zip(self.problem.shapes, split(vector, list(self.problem.shapes.values())), strict=True))
