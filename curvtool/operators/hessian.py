"""The Hessian of the loss, H = (1/W) sum_i d2 l_i / dtheta2."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from curvtool.operators.curvature import CurvatureOperator
from curvtool.operators.products import GradientGraph, Parts, forward_over_reverse

if TYPE_CHECKING:
    from curvtool.problem.problem import Problem
    from curvtool.problem.rewrites.mode import Form


class HessianKernel:
    """The Hessian of a batch's summed loss: reverse over reverse on a graph, or forward over reverse."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self._names, self._parameters = list(problem.parameters), list(problem.parameters.values())

    keeping_pays = True  # a further product saves the gradient, a third of a fresh one

    def build(self, rows: range) -> GradientGraph:
        """The gradient of the batch with its graph."""
        return GradientGraph(self._loss_of(rows)(self._parameters), self._parameters)

    def rewritable(self, rows: range) -> dict[Form, bool]:
        """Those that change something in the model."""
        return self.problem.rewritable(rows)

    def forward_product(self, rows: range, vector: Sequence[torch.Tensor]) -> Parts:
        """H_b v in parts, forward over reverse."""
        return forward_over_reverse(self._loss_of(rows), self._parameters, vector)

    def _loss_of(self, rows: range) -> Callable[[Sequence[torch.Tensor]], torch.Tensor]:
        batch = self.problem.batch(rows)
        return lambda parameters: self.problem.loss_sum(dict(zip(self._names, parameters, strict=True)), batch)


class Hessian(CurvatureOperator):
    """H v by automatic differentiation: Pearlmutter 1994. The arguments are those of `CurvatureOperator`."""

    name = "hessian"

    def make_kernel(self, problem: Problem) -> HessianKernel:
        """Second derivatives of the batch's loss."""
        return HessianKernel(problem)

    def batch_gradient(self, rows: range) -> tuple[torch.Tensor, Parts]:
        """As in the base; a kept graph holds both already."""
        graph = self.execution.kept(rows)
        if isinstance(graph, GradientGraph):
            return graph.value, graph.gradient
        return super().batch_gradient(rows)
