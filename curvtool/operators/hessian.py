"""The Hessian of the loss, H = (1/W) sum_i d2 l_i / dtheta2."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from curvtool.operators.curvature import CurvatureOperator
from curvtool.operators.differences import Gradient, Step, difference_product, find_step
from curvtool.operators.memory import saved_bytes
from curvtool.operators.products import GradientGraph, Parts, forward_over_reverse

if TYPE_CHECKING:
    from curvtool.problem.problem import Problem
    from curvtool.vocabulary import Form


class HessianMatrix:
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

    def difference_product(self, rows: range, vector: Sequence[torch.Tensor], step: float) -> Parts:
        """H_b v in parts, as a central difference of gradients."""
        precise = [v.to(self._precise.dtype) for v in vector]
        parameters = list(self._precise.parameters.values())
        parts = difference_product(self._gradient_of(rows), parameters, precise, step)
        return [None if part is None else part.to(self.problem.dtype) for part in parts]

    def difference_step(self, rows: range) -> Step:
        """The step for such products, found on these samples."""
        return find_step(self._gradient_of(rows), list(self._precise.parameters.values()))

    def gradient_bytes(self, rows: range) -> int:
        """What the loss saves for a gradient; what the problem holds itself does not count."""
        with saved_bytes() as count:
            value = self._precise.loss_sum(self._precise.parameters, self._precise.batch(rows))
            size = count(self._precise.storages())
        del value
        return size

    @cached_property
    def _precise(self) -> Problem:
        """The problem in float64, where steps can be short; in its own precision where the model allows no other.

        What is constant in it is held from a call with the parameters as they are.
        """
        own = self.problem.holding_constants()
        exact = own
        if own.dtype != torch.float64:
            exact = own.restricted(range(own.num_samples), torch.float64).holding_constants()
        for problem in (exact, own):
            try:
                with torch.no_grad():
                    problem.loss_sum(problem.parameters, problem.batch(problem.first(1)))
                return problem
            except (RuntimeError, TypeError):
                if problem is own:
                    raise
        raise AssertionError

    def _gradient_of(self, rows: range) -> Gradient:
        problem, names = self._precise, self._names
        batch = problem.batch(rows)

        def gradient(parameters: Sequence[torch.Tensor]) -> Parts:
            value = problem.loss_sum(dict(zip(names, parameters, strict=True)), batch)
            if not value.requires_grad:
                return [None] * len(parameters)
            return torch.autograd.grad(value, list(parameters), allow_unused=True)

        return gradient

    def _loss_of(self, rows: range) -> Callable[[Sequence[torch.Tensor]], torch.Tensor]:
        batch, factor = self.problem.batch(rows), 1.0 if rows else 0.0

        def loss(parameters: Sequence[torch.Tensor]) -> torch.Tensor:
            value = self.problem.loss_sum(dict(zip(self._names, parameters, strict=True)), batch)
            return value if factor else value * factor

        return loss


class Hessian(CurvatureOperator):
    """H v by automatic differentiation: Pearlmutter 1994. The arguments are those of `CurvatureOperator`."""

    name = "hessian"

    def make_matrix(self, problem: Problem) -> HessianMatrix:
        """Second derivatives of the batch's loss."""
        return HessianMatrix(problem)

    def batch_gradient(self, rows: range) -> tuple[torch.Tensor, Parts]:
        """As in the base; a kept graph holds both already."""
        graph = self.execution.kept(rows)
        if isinstance(graph, GradientGraph):
            return graph.value, graph.gradient
        return super().batch_gradient(rows)
