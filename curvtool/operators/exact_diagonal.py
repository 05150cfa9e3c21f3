"""The diagonal of (1/W) sum_i J_i^T M_i J_i, exactly: the squares of every sample's own rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch.func import vjp, vmap

from curvtool.errors import CurvtoolError
from curvtool.operators.products import Parts
from curvtool.problem.tree import Tree, map_tensors

if TYPE_CHECKING:
    from curvtool.operators.gauss_newton import SandwichMatrix

MAX_ROWS = 256  # outputs of a sample up to which it is tried


class RowSquares:
    """sum_r s_r (c_r^T J_i)^2 for M_i = sum_r s_r c_r c_r^T, a batch of samples at a time, by vectorised
    vector-Jacobian products (Dangel, Kunstner, Hennig 2020, arXiv:1912.10985, for the square root of M).

    Args:
        matrix: J^T M J of a batch.
        memory_budget: bytes that the rows of several samples may take at once.
    """

    def __init__(self, matrix: SandwichMatrix, memory_budget: int) -> None:
        self.matrix, self.memory_budget = matrix, memory_budget
        self._num_rows: int | None = None

    @property
    def num_rows(self) -> int | None:
        """Rows of a sample's Jacobian; None where there are too many, or the model cannot be vectorised."""
        if self._num_rows is None:
            self._num_rows = self._count() or 0
        return self._num_rows or None

    def _count(self) -> int | None:
        first = range(min(2, self.matrix.problem.num_samples))
        try:
            with self.matrix.problem.context(len(first)), torch.no_grad():
                output = self.matrix.output_of(first)(self.matrix.parameters)
                if output.numel() % len(first) or output.numel() // len(first) > MAX_ROWS:
                    return None
                rows = output.numel() // len(first)
            self.of_batch(range(1))
        except (RuntimeError, ValueError, CurvtoolError):  # an operation without a batching rule
            return None
        return rows

    def of_batch(self, rows: range) -> Parts:
        """The diagonal's sum over these samples, in parts."""
        matrix = self.matrix
        with matrix.problem.context(len(rows)):
            output = matrix.output_of(rows)([p.detach() for p in matrix.parameters])
            targets = matrix.problem.batch(rows)[1]
            factors, signs = _factors(lambda u: matrix.middle(output.detach(), targets, u), output.detach(), len(rows))
            a_sample = factors.shape[1] * sum(p.numel() for p in matrix.parameters) * output.element_size()
            chunk = max(1, min(len(rows), self.memory_budget // max(1, 3 * a_sample)))
            parameters = tuple(p.detach() for p in matrix.parameters)
            inputs = matrix.problem.batch(rows)[0]
            squares = vmap(self._of_sample, in_dims=(None, 0, 0, 0, 0), chunk_size=chunk)
            found: tuple[torch.Tensor, ...] = squares(parameters, inputs, targets, factors, signs)
            return [part.sum(0) for part in found]

    def _of_sample(
        self,
        parameters: tuple[torch.Tensor, ...],
        inputs: Tree,
        targets: Tree | None,
        factors: torch.Tensor,
        signs: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        matrix = self.matrix
        single = [map_tensors(lambda t: t[None], tree) for tree in (inputs, targets)]

        def output(parameters: tuple[torch.Tensor, ...]) -> torch.Tensor:
            raw = matrix.problem.forward(dict(zip(matrix.names, parameters, strict=True)), single[0])
            return matrix.output(matrix.problem.prediction(raw), single[1]).reshape(-1)

        pull = vjp(output, parameters)[1]
        (rows,) = vmap(pull)(factors)
        return tuple(torch.einsum("r,r...->...", signs, row.square()) for row in rows)


def _factors(
    middle: Callable[[torch.Tensor], torch.Tensor], output: torch.Tensor, num: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """c of shape (n, C, C), a row a factor, and s of shape (n, C) with M_i = sum_r s_r c_r c_r^T; in float64 within."""
    size = output.numel() // num
    columns = []
    tangent = torch.zeros(num, size, dtype=output.dtype, device=output.device)
    for index in range(size):
        tangent[:, index] = 1
        columns.append(middle(tangent.reshape(output.shape)).reshape(num, size).clone())  # it may be the tangent itself
        tangent[:, index] = 0
    matrices = torch.stack(columns, dim=2).double()
    values, vectors = torch.linalg.eigh((matrices + matrices.mT) / 2)
    factors = (vectors * values.abs().sqrt()[:, None, :]).mT
    return factors.to(output.dtype).contiguous(), values.sign().to(output.dtype)
