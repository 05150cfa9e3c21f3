"""How many groups of samples, with a vector each, are multiplied in one go: measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import torch

from curvtool import device
from curvtool.errors import CurvtoolError
from curvtool.operators.calibration import agree, measured_seconds
from curvtool.operators.execution import Execution
from curvtool.operators.products import Parts, stacked

_TRIED = 4  # groups
_LONG = 1.0  # seconds of a group's product that is not bound by the overhead of its calls
_VECTORS = 5  # of P numbers that a group takes on the way: its probe, its product and what they are made from
_CACHED = 2**22  # numbers in the vectors of a stack on a CPU, whose caches more would leave


class Stack:
    """Groups of samples stacked as in `StackedProblem`, where that is possible, right and faster than one by one.

    Args:
        execution: runs the products.
        groups: consecutive groups of one size, but for the last one.
        batch: samples of a product of the whole, to compare with.
    """

    def __init__(self, execution: Execution, groups: Sequence[range], batch: range) -> None:
        self.execution, self.groups, self.batch = execution, groups, batch
        self.num_full = sum(len(group) == len(groups[0]) for group in groups)

    @cached_property
    def height(self) -> int:
        """Groups in one go; 1 where they are run one by one."""
        return self._trial[0]

    @property
    def height_used(self) -> int:
        """The height, where stacks were asked for."""
        return self.height if "height" in self.__dict__ else 1

    @cached_property
    def suits_whole(self) -> bool:
        """Whether products with one vector for all data are faster by stacks than by batches, as for small batches."""
        return self._trial[1]

    def shrink(self) -> None:
        """After memory ran out."""
        self.height = max(1, self.height // 2)
        self.execution.shrink()

    def rows(self, groups: range) -> range:
        """The samples of consecutive groups."""
        return range(self.groups[groups[0]].start, self.groups[groups[-1]].stop)

    @cached_property
    def _trial(self) -> tuple[int, bool]:
        affordable = self._affordable
        num = min(_TRIED, affordable)
        if num < 2:
            return 1, False
        execution = self.execution
        generator = torch.Generator().manual_seed(0)
        vectors = [torch.randn(num, *p.shape, generator=generator).to(p) for p in execution.parameters]
        rows = self.rows(range(num))

        def alone() -> list[Parts]:
            return [execution.product(self.groups[i], [v[i] for v in vectors]) for i in range(num)]

        def in_one_go() -> Parts:
            return execution.product(rows, vectors, height=num)

        try:
            if measured_seconds(alone, execution.problem.device) > _LONG * num:
                return 1, False
            if not agree(in_one_go(), stacked(alone())):
                return 1, False
            seconds = self._seconds(in_one_go)
            if seconds >= self._seconds(alone):
                return 1, False
            whole = self._seconds(lambda: execution.product(self.batch, [v[0] for v in vectors]))
            return affordable, seconds / len(rows) < whole / len(self.batch)
        except (RuntimeError, CurvtoolError):  # a model that cannot be mapped, or too large a stack
            return 1, False
        finally:
            execution.release()

    def _seconds(self, run: Callable[[], object]) -> float:
        return min(measured_seconds(run, self.execution.problem.device) for _ in range(2))

    @property
    def _affordable(self) -> int:
        """Full groups that the budget allows in one go: their graphs in a quarter of it, their vectors in another."""
        execution = self.execution
        if execution.is_approximate:  # whose step is for one vector
            return 1
        num_params = sum(p.numel() for p in execution.parameters)
        vectors = _VECTORS * num_params * execution.problem.dtype.itemsize
        graph = len(self.groups[0]) * execution.calibration.graph_bytes_per_sample
        most = min(self.num_full, execution.memory_budget // 4 // max(vectors, graph, 1))
        return min(most, max(1, _CACHED // num_params)) if device.is_host(execution.problem.device) else most
