"""How many vectors are multiplied by the same samples in one go: measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import torch

from curvtool.errors import CurvtoolError
from curvtool.operators.calibration import agree, measured_seconds
from curvtool.operators.execution import Execution
from curvtool.operators.products import GradientGraph, Parts, stacked

_TRIED = 8  # vectors
_MOST = 64  # in one go: beyond, a vector's share was seen to fall no further
_SHARED = 8  # products on a graph that is made for them: then it costs an eighth of a gradient a vector
_LONG = 0.05  # seconds of a product that is not bound by the overhead of its calls


class Block:
    """Products of several vectors with a batch: on one graph, and by one backward pass of all where that is faster.

    Args:
        execution: runs the products.
        batch: samples to try it on.
    """

    def __init__(self, execution: Execution, batch: range) -> None:
        self.execution, self.batch = execution, batch

    @cached_property
    def width(self) -> int:
        """The number of vectors that are best multiplied together; 1 where nothing is gained."""
        if self._mapped > 1:
            return self._mapped
        return _SHARED if self.execution.shares_graphs else 1

    @property
    def width_used(self) -> int:
        """The width, where blocks were asked for."""
        return self.width if "width" in self.__dict__ else 1

    def shrink(self) -> None:
        """After memory ran out."""
        self.width = self._mapped = 1
        self.execution.shrink()

    def product(self, rows: range, vectors: Sequence[torch.Tensor]) -> Parts:
        """A_b V for the matrix of these samples, in parts with the vectors as their first dimension.

        Args:
            rows: the samples.
            vectors: V, in parts of shape (k, *shape).
        """
        each = [[part[i] for part in vectors] for i in range(len(vectors[0]))]
        with self.execution.problem.context(len(rows)):
            graph = self.execution.graph_for_several(rows)
            if graph is None:
                return stacked([self.execution.product(rows, vector) for vector in each])
            if self._mapped > 1 and isinstance(graph, GradientGraph):
                return graph.products(vectors)
            return stacked([graph.product(vector) for vector in each])

    @cached_property
    def _mapped(self) -> int:
        """Vectors of one backward pass; 1 where that is impossible, wrong, or no faster than one by one."""
        execution = self.execution
        num = min(_MOST, self._affordable)
        if num < 2:
            return 1
        generator = torch.Generator().manual_seed(0)
        vectors = [torch.randn(min(num, _TRIED), *p.shape, generator=generator).to(p) for p in execution.parameters]
        each = [[part[i] for part in vectors] for i in range(len(vectors[0]))]
        try:
            with execution.problem.context(len(self.batch)):
                graph = execution.graph_for_several(self.batch)
                if not isinstance(graph, GradientGraph):
                    return 1
                if measured_seconds(lambda: graph.product(each[0]), execution.problem.device) > _LONG:
                    return 1
                if not agree(graph.products(vectors), stacked([graph.product(vector) for vector in each])):
                    return 1
                alone = self._seconds(lambda: [graph.product(vector) for vector in each])
                return num if self._seconds(lambda: graph.products(vectors)) < alone else 1
        except (RuntimeError, CurvtoolError):  # an operation that cannot be mapped, or too large a block
            return 1

    def _seconds(self, run: Callable[[], object]) -> float:
        return min(measured_seconds(run, self.execution.problem.device) for _ in range(2))

    @property
    def _affordable(self) -> int:
        """Vectors whose products and whose passes through the batch's graph take a quarter of the budget."""
        execution = self.execution
        vector = 3 * sum(p.numel() for p in execution.parameters) * execution.problem.dtype.itemsize
        graph = len(self.batch) * execution.calibration.graph_bytes_per_sample
        return execution.memory_budget // 4 // max(vector + graph, 1)
