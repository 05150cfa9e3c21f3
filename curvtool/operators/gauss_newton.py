"""The generalized Gauss-Newton matrix, G = (1/W) sum_i J_i^T (d2 l_i / dz_i2) J_i, z_i the outputs of sample i.

Schraudolph 2002 (Neural Computation 14(7), 1723-1738). It is the Hessian without the curvature of the model itself, and
positive semidefinite where the loss is convex in the outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch

from curvtool.errors import CurvtoolError, UsageError
from curvtool.operators.base import Steps
from curvtool.operators.calibration import AGREEMENT, CALIBRATION_SAMPLES
from curvtool.operators.curvature import CurvatureOperator
from curvtool.operators.data_sum import mean_over_batches, pieces_of
from curvtool.operators.exact_diagonal import RowSquares
from curvtool.operators.products import OutputGraph, Parts, push_forward, push_forward_with_graph

if TYPE_CHECKING:
    from curvtool.problem.problem import Problem
    from curvtool.problem.tree import Tree
    from curvtool.vocabulary import Form

_LOOKED_AT = 32  # samples at once, in search of one with a curved loss

Output = Callable[[torch.Tensor, "Tree | None"], torch.Tensor]
Middle = Callable[[torch.Tensor, "Tree | None", torch.Tensor], torch.Tensor]


class SandwichGraph:
    """J^T M J of one batch on the kept graph of its outputs."""

    def __init__(self, matrix: SandwichMatrix, rows: range) -> None:
        self.matrix, self.rows = matrix, rows
        self.targets = matrix.problem.batch(rows)[1]
        self.graph = OutputGraph(matrix.output_of(rows)(matrix.parameters), matrix.parameters)

    def product(self, vector: Sequence[torch.Tensor], *, keep: bool = True) -> Parts:
        """J^T M J v in parts: J v by forward mode where that was seen to work, else by reverse mode twice."""
        if keep and self.matrix.forward_works:
            _, tangent = push_forward(
                self.matrix.output_of(self.rows), self.matrix.parameters, vector, self.matrix.fused
            )
        else:
            tangent = self.graph.jvp(vector)
        cotangent = self.matrix.middle(self.graph.output.detach(), self.targets, tangent)
        return self.graph.vjp(cotangent if self.rows else cotangent * 0.0, keep=keep)


class SandwichMatrix:
    """J^T M J of a batch, J the Jacobian of a function of its predictions over the parameters.

    Args:
        problem: model, data and loss.
        output: what is differentiated, from the prediction and the targets.
        middle: u -> M u, from the output, the targets and u.
    """

    def __init__(self, problem: Problem, output: Output, middle: Middle) -> None:
        self.problem, self.output, self.middle = problem, output, middle
        self.parameters = list(problem.parameters.values())
        self.names = list(problem.parameters)
        self._forward_works: bool | None = None

    def build(self, rows: range) -> SandwichGraph:
        """The graph of the batch's outputs."""
        return SandwichGraph(self, rows)

    def forward_product(self, rows: range, vector: Sequence[torch.Tensor]) -> Parts:
        """J^T M J v in parts: J v rides along in forward mode while the graph of J^T is made."""
        output, tangent = push_forward_with_graph(self.output_of(rows), self.parameters, vector, self.fused)
        cotangent = self.middle(output.detach(), self.problem.batch(rows)[1], tangent)
        return OutputGraph(output, self.parameters).vjp(cotangent, keep=False)

    @property
    def fused(self) -> bool:
        """Whether tangents take rules of our own."""
        return self.problem.form != "torch"

    def rewritable(self, rows: range) -> dict[Form, bool]:
        """Every model has something that the rules of our own are for."""
        return {**self.problem.rewritable(rows), "rewritten": True}

    def output_of(self, rows: range) -> Callable[[Sequence[torch.Tensor]], torch.Tensor]:
        """The output of these samples as a function of the parameters."""
        inputs, targets = self.problem.batch(rows)

        def function(parameters: Sequence[torch.Tensor]) -> torch.Tensor:
            raw = self.problem.forward(dict(zip(self.names, parameters, strict=True)), inputs)
            return self.output(self.problem.prediction(raw), targets)

        return function

    @property
    def keeping_pays(self) -> bool:
        """No where forward mode works: J v costs a pass of its own, in which the graph of J^T is made along the way."""
        return not self.forward_works

    @property
    def forward_works(self) -> bool:
        """Whether J v by forward mode agrees with J v by reverse mode twice, on a few samples; tried once."""
        if self._forward_works is None:  # ranks that share the parameters might come to different answers
            self._forward_works = self.problem.sharded is None and self._try_forward()
        return self._forward_works

    def _try_forward(self) -> bool:
        few = SandwichMatrix(self.problem.sampled(CALIBRATION_SAMPLES), self.output, self.middle)
        rows = range(few.problem.num_samples)
        generator = torch.Generator().manual_seed(0)
        vector = [torch.randn(p.shape, generator=generator).to(p) for p in self.parameters]
        with self.problem.context(len(rows)):
            true = few.build(rows).graph.jvp(vector)
            try:
                _, found = push_forward(few.output_of(rows), self.parameters, vector, self.fused)
            except (RuntimeError, CurvtoolError):
                return False
            gap, size = torch.linalg.vector_norm(found - true), torch.linalg.vector_norm(true)
            return bool(gap <= AGREEMENT * size)


def _is_curved(problem: Problem, rows: range) -> bool:
    """Whether the loss is curved in the outputs of some of these samples, which then count."""
    loss = problem.loss
    assert loss is not None
    inputs, targets = problem.batch(rows)
    with problem.context(len(rows)):
        with torch.no_grad():
            output = problem.prediction(problem.forward(problem.parameters, inputs))
        direction = torch.randn(output.shape, generator=torch.Generator().manual_seed(0)).to(output)
        return bool(loss.output_hessian_product(output, targets, direction).any())


class SandwichOperator(CurvatureOperator):
    """A matrix of the form (1/W) sum_i J_i^T M_i J_i; its diagonal has an exact form of its own."""

    @cached_property
    def _row_squares(self) -> RowSquares:
        matrix = self.execution.plain_matrix
        assert isinstance(matrix, SandwichMatrix)
        return RowSquares(matrix, self.execution.graph_budget // 2)

    @property
    def _num_rows(self) -> int | None:
        """Rows of a sample's Jacobian whose squares can be had; None where they cannot."""
        if self.problem.sharded is not None or self.problem.statistics_batch is not None:
            return None
        return self._row_squares.num_rows

    @property
    def rank_bound(self) -> int:
        """The rows of all samples' Jacobians, where that is less than P."""
        rows = self._num_rows
        return self.space.dim if rows is None else min(rows * self.problem.num_samples, self.space.dim)

    @property
    def diagonal_cost(self) -> int:
        """Passes of `exact_diagonal`: a row of every sample's Jacobian each, or P products where that is less."""
        return min(self._num_rows or self.space.dim, self.space.dim)

    def exact_diagonal(self, steps: Steps | None = None) -> torch.Tensor:
        """The squares of all samples' rows, this rank's coordinates of their sum."""
        num_rows = self._num_rows
        if num_rows is None or num_rows >= self.space.dim:
            return super().exact_diagonal(steps)
        steps = steps or Steps()
        diagonal = self.space.zeros() if steps.so_far is None else steps.so_far
        for step in steps.left(max(self.cluster.gather_objects(len(self.batches)))):
            diagonal += mean_over_batches(
                self.shared.sum_space,
                self.shapes,
                self._batches_of(step, steps.of),
                self._row_squares.of_batch,
                self.problem.total_weight,
            )
            self.count_products(num_rows * (step + 1) // steps.of - num_rows * step // steps.of)
            steps.advance(step + 1, diagonal)
        return diagonal

    def _batches_of(self, step: int, steps: int) -> list[range]:
        """One of as many shares of this rank's samples: alike whatever the batches of the machine are."""
        if not self.batches:
            return []
        first, end = min(rows.start for rows in self.batches), max(rows.stop for rows in self.batches)
        start, stop = (first + each * (end - first) // steps for each in (step, step + 1))
        return pieces_of(range(start, stop), max(map(len, self.batches)))


class GaussNewton(SandwichOperator):
    """G v = (1/W) sum_i J_i^T (d2 l_i/dz_i2) J_i v; the loss owns its output-space Hessian.

    The outputs z are the prediction that the loss reads (logits for cross-entropy). The other arguments are those of
    `CurvatureOperator`.

    Raises:
        UsageError: CT008, the loss is linear in the outputs (as nll on log-probabilities is), so that G = 0.
    """

    name = "ggn"

    def __init__(self, problem: Problem, **options: Any) -> None:
        self.check_loss(problem)
        super().__init__(problem, **options)

    def make_matrix(self, problem: Problem) -> SandwichMatrix:
        """J^T H_out J of the batch's predictions."""
        loss = problem.loss
        assert loss is not None
        return SandwichMatrix(problem, lambda prediction, _: prediction, loss.output_hessian_product)

    def check_loss(self, problem: Problem) -> None:
        """Refuses a linear loss, told by products with the output-space Hessian: of a few samples over all the data,
        and of all of them where those show none. A part of the data says nothing of the others."""
        loss = problem.loss
        assert loss is not None
        if loss.is_likelihood or problem.is_part:
            return
        few = problem.sampled(CALIBRATION_SAMPLES)
        rest = ((problem, rows) for rows in problem.ranges(_LOOKED_AT))
        curved = any(_is_curved(each, rows) for each, rows in chain([(few, range(few.num_samples))], rest))
        if not curved and problem.total_weight > 0:
            raise UsageError(
                "CT008",
                f"the loss {loss.name} is linear in the model's outputs at every sample, so its Gauss-Newton matrix is "
                "zero",
                expected="a loss that is curved in the outputs, as cross-entropy on logits",
                received="an output-space Hessian of zero (as nll on log-probabilities has)",
                remedy="let the model return logits and take --loss cross-entropy, or --operator hessian",
            )
