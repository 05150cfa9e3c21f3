"""The Jacobian of a model's outputs over its parameters, dz/dtheta."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from curvtool.errors import UsageError
from curvtool.linalg.space import VectorSpace
from curvtool.operators.data_sum import mean_over_batches, split
from curvtool.operators.gauss_newton import SandwichMatrix
from curvtool.operators.products import Parts, push_forward
from curvtool.problem.statistics import refuse_per_sample

if TYPE_CHECKING:
    from curvtool.problem.problem import Problem

_MAX_BATCH = 256


class ParameterJacobian:
    """J of shape (N, C, P): C outputs (flattened) of each of N samples, P parameters.

    J v is one pass in forward mode where that works on the model (it is tried once), else by reverse mode twice;
    J^T u is one backward pass a batch. J J^T is the neural tangent kernel of the data.

    Args:
        problem: the model, its parameters and inputs; no loss is needed.
        batch_size: samples a batch; 256 if None.

    Raises:
        UsageError: CT003, batches have statistics, so that no sample has a Jacobian of its own.
    """

    def __init__(self, problem: Problem, *, batch_size: int | None = None) -> None:
        refuse_per_sample(problem.statistics_batch, "this takes Jacobians", 'batch_norm="eval"')
        parameters = list(problem.parameters.values())
        self.problem = problem
        self.shapes = [p.shape for p in parameters]
        self.space = VectorSpace(sum(p.numel() for p in parameters), problem.dtype, problem.device)
        self.matrix = SandwichMatrix(problem, lambda prediction, _: prediction, lambda _z, _y, tangent: tangent)
        self.batches = problem.ranges(batch_size or min(_MAX_BATCH, problem.num_samples))
        with problem.context(), torch.no_grad():
            self.output_dim = self._outputs(range(1)).numel()

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, C, P)."""
        return self.problem.num_samples, self.output_dim, self.space.dim

    def jvp(self, vector: torch.Tensor) -> torch.Tensor:
        """J v for v of shape (P,): shape (N, C)."""
        parts = split(vector, self.shapes)
        found = []
        for rows in self.batches:
            with self.problem.context(len(rows)):
                if self.matrix.forward_works:
                    tangent = push_forward(self.matrix.output_of(rows), self.matrix.parameters, parts)[1]
                else:
                    tangent = self.matrix.build(rows).graph.jvp(parts)
            found.append(tangent.reshape(len(rows), self.output_dim))
        return torch.cat(found)

    def vjp(self, cotangent: torch.Tensor) -> torch.Tensor:
        """J^T u for u of shape (N, C): shape (P,).

        Raises:
            UsageError: CT001, u has another shape.
        """
        if tuple(cotangent.shape) != self.shape[:2]:
            raise UsageError(
                "CT001", "another shape", expected=str(self.shape[:2]), received=str(tuple(cotangent.shape))
            )

        def pulled(rows: range) -> Parts:
            with self.problem.context(len(rows)):
                graph = self.matrix.build(rows).graph
                return graph.vjp(cotangent[rows.start : rows.stop].reshape(graph.output.shape), keep=False)

        return mean_over_batches(self.space, self.shapes, self.batches, pulled, 1.0)

    def materialize(self, max_bytes: int = 2**30) -> torch.Tensor:
        """The dense Jacobian (N, C, P), a backward pass a row; for small problems.

        Raises:
            UsageError: CT006, it would take more than `max_bytes`.
        """
        num, outputs, dim = self.shape
        needed = num * outputs * self.space.vector_bytes
        if needed > max_bytes:
            raise UsageError(
                "CT006",
                f"the dense Jacobian would take {needed / 2**30:.1f} GiB",
                expected=f"at most {max_bytes / 2**30:.1f} GiB",
                received=f"{num:,} x {outputs:,} x {dim:,} in {self.space.dtype}",
                remedy="take fewer samples or parameters, or raise max_bytes",
            )
        rows = []
        unit = torch.zeros(num, outputs, dtype=self.space.dtype, device=self.space.device)
        for sample in range(num):
            for output in range(outputs):
                unit[sample, output] = 1
                rows.append(self.vjp(unit))
                unit[sample, output] = 0
        return torch.stack(rows).view(num, outputs, dim)

    def _outputs(self, rows: range) -> torch.Tensor:
        return self.matrix.output_of(rows)(self.matrix.parameters)
