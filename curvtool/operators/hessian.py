"""The Hessian of the loss, H = (1/W) sum_i d2 l_i / dtheta2."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from curvtool.errors import LoadError
from curvtool.linalg.space import VectorSpace
from curvtool.operators.base import LinearOperator
from curvtool.operators.data_sum import mean_over_batches, split
from curvtool.operators.execution import Execution

if TYPE_CHECKING:
    from curvtool.problem.problem import Problem

PROBE_GROUP = 32


class Hessian(LinearOperator):
    """H v by automatic differentiation, batch by batch; also the sum of the Hessians of groups of samples.

    Vectors are flat: the parameters in the problem's order, each in its own row-major order.

    Args:
        problem: model, data and loss.
        batch_size: samples a batch; None chooses one that the memory budget allows.
        mode: how products are run: `auto`, `kept`, `fresh` or `forward`.
        memory_budget: bytes for graphs and vectors; half of the free memory if None.
        group_size: samples of a term; fixed by the data, not by the device or the batch, so that the same seed gives
            the same probes everywhere.
    """

    name = "hessian"

    def __init__(
        self,
        problem: Problem,
        *,
        batch_size: int | None = None,
        mode: str = "auto",
        memory_budget: int | None = None,
        group_size: int = PROBE_GROUP,
    ) -> None:
        parameters = list(problem.parameters.values())
        super().__init__(VectorSpace(sum(p.numel() for p in parameters), problem.dtype, problem.device))
        self.problem = problem
        self.shapes = [p.shape for p in parameters]
        self.execution = Execution(problem, mode, memory_budget)
        self.batch_size = batch_size or self.execution.batch_size()
        self.batches = problem.ranges(self.batch_size)
        self.groups = problem.ranges(group_size)

    def matvec(self, vector: torch.Tensor) -> torch.Tensor:
        """H v: shape (P,)."""
        parts = split(vector, self.shapes)
        result = mean_over_batches(
            self.space,
            self.shapes,
            self.batches,
            lambda rows: self.execution.product(rows, parts),
            self.problem.total_weight,
        )
        self.num_products += 1
        self.data_passes += 1
        return result

    @property
    def num_terms(self) -> int:
        """The number of groups of samples."""
        return len(self.groups)

    def term_quadratic_form(self, term: int, probe: torch.Tensor) -> torch.Tensor:
        """<z, H_t z> with H_t = (1/W) sum over the samples of group t, a scalar on the device."""
        rows = self.groups[term]
        parts = split(probe, self.shapes)
        total = torch.zeros((), dtype=self.space.dtype, device=self.space.device)
        for start in range(rows.start, rows.stop, self.batch_size):
            piece = range(start, min(start + self.batch_size, rows.stop))
            products = self.execution.product(piece, parts)
            for part, product in zip(parts, products, strict=True):
                if product is not None:
                    total = total + (part * product).sum()
        share = len(rows) / self.problem.num_samples
        self.num_products += share
        self.data_passes += share
        return total / self.problem.total_weight

    def loss_and_gradient(self) -> tuple[float, torch.Tensor]:
        """L and its gradient (P,), one pass over the data.

        Raises:
            LoadError: CT026, the loss is not finite; it names the first sample that is not.
        """
        values: list[torch.Tensor] = []

        def gradient_of(rows: range) -> list[torch.Tensor | None]:
            value, gradient = self.execution.gradient(rows)
            values.append(value)
            return list(gradient)

        gradient = mean_over_batches(self.space, self.shapes, self.batches, gradient_of, self.problem.total_weight)
        loss = float(self.space.cluster.sum(torch.stack(values).double().sum())) / self.problem.total_weight
        if loss != loss or abs(loss) == float("inf") or not bool(torch.isfinite(gradient).all()):
            row = self.problem.find_non_finite()
            raise LoadError(
                "CT026",
                "the loss or its gradient is not finite",
                expected="a finite loss and gradient",
                received=f"loss {loss}" + (f", first at row {row} of the data" if row is not None else ""),
                remedy="check the data's scale and the checkpoint; --dtype float64 tells overflow from a true infinity",
            )
        return loss, gradient

    def by_parameter(self, vector: torch.Tensor) -> dict[str, torch.Tensor]:
        """A flat vector as views by parameter name."""
        return dict(zip(self.problem.parameters, split(vector, self.shapes), strict=True))
