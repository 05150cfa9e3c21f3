"""How a batch's product is run: with its graph kept, afresh, or by forward mode; timings choose.

A fresh Hessian product costs three gradients or a little more, a further product on a kept graph two; forward over
reverse lies between, and which one wins depends on the model. So graphs are kept while a memory budget allows, and a
timed product of each kind on a small batch chooses the rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from curvtool.errors import CurvtoolError, OutOfMemory
from curvtool.operators.memory import default_budget, saved_bytes
from curvtool.operators.products import Parts
from curvtool.problem.tree import storage_id

if TYPE_CHECKING:
    from curvtool.problem.problem import Problem

MODES = ("auto", "kept", "fresh", "forward")
CALIBRATION_SAMPLES = 8
MAX_BATCH = 512
LEAST_BATCHES = 8  # where there are samples enough: the spread over the data is told from them
AGREEMENT = 1e-3  # of a mode's product with the reverse one; a wrong rule is off by far more


class Graph(Protocol):
    """A batch's matrix with what autograd needs to multiply by it again."""

    def product(self, vector: Sequence[torch.Tensor], *, keep: bool = True) -> Parts:
        """A_b v in parts; without `keep` the graph is given up."""


class Kernel(Protocol):
    """One kind of matrix, a batch at a time."""

    def build(self, rows: range) -> Graph:
        """The graph of the matrix of these samples, summed over them."""

    def forward_product(self, rows: range, vector: Sequence[torch.Tensor]) -> Parts:
        """A_b v by forward mode, without a graph that could be kept."""


@dataclass(frozen=True)
class Calibration:
    """What one small batch told.

    Attributes:
        num_samples: size of that batch.
        graph_bytes_per_sample: what a kept graph of the gradient holds, a sample.
        seconds: the time of one product on that batch by mode; a mode that failed or was wrong is not there.
        rejected: modes that were left out, with the reason.
    """

    num_samples: int
    graph_bytes_per_sample: int
    seconds: dict[str, float]
    rejected: dict[str, str]


class Execution:
    """Runs the products of batches of one problem with one kind of matrix.

    Args:
        problem: whose data these are.
        kernel: the matrix of a batch.
        mode: `kept`, `fresh` or `forward` for every batch; `auto` keeps what the budget allows and takes the faster
            of the others for the rest.
        memory_budget: bytes for graphs and vectors together; half of the free memory if None.
    """

    def __init__(self, problem: Problem, kernel: Kernel, mode: str = "auto", memory_budget: int | None = None) -> None:
        self.problem, self.kernel = problem, kernel
        self.mode = mode
        self.memory_budget = default_budget(problem.device) if memory_budget is None else memory_budget
        self.parameters = list(problem.parameters.values())
        self._graphs: dict[range, Graph] = {}
        self._calibration: Calibration | None = None
        problem.keep_data_on_device(self.memory_budget // 4)

    @property
    def calibration(self) -> Calibration:
        """Timings and sizes on one small batch, taken at the first use."""
        if self._calibration is None:
            self._calibration = self._calibrate()
        return self._calibration

    @property
    def graph_budget(self) -> int:
        """Bytes for kept graphs: the vectors have the other half of the budget."""
        return self.memory_budget // 2

    def batch_size(self) -> int:
        """The samples of a batch: as many as the budget holds twice over, at most 512 and at most an eighth of all."""
        per_sample = max(self.calibration.graph_bytes_per_sample, 1)
        size = MAX_BATCH
        while size > 1 and size * per_sample * 2 > self.graph_budget:
            size //= 2
        eighth = max(-(-self.problem.num_samples // LEAST_BATCHES), CALIBRATION_SAMPLES)
        return min(size, eighth, self.problem.num_samples)

    def describe(self) -> str:
        """The mode as it was used, for the report."""
        if self.mode != "auto":
            return self.mode
        rest = self._mode_without_graph()
        return f"kept ({len(self._graphs)} graphs), else {rest}" if self._graphs else rest

    def product(self, rows: range, vector: Sequence[torch.Tensor]) -> Parts:
        """A_b v for the matrix of these samples, summed over them, in parts."""
        with self.problem.context(len(rows)):
            graph = self.kept(rows)
            if graph is not None:
                return graph.product(vector)
            if self._mode_without_graph() == "forward":
                return self.kernel.forward_product(rows, vector)
            return self.kernel.build(rows).product(vector, keep=False)

    def kept(self, rows: range) -> Graph | None:
        """The kept graph of these samples, made now where the budget allows; None where it does not."""
        graph = self._graphs.get(rows)
        if graph is None and self._may_keep(rows):
            graph = self._graphs[rows] = self.kernel.build(rows)
        return graph

    def release(self) -> None:
        """Gives up all kept graphs."""
        self._graphs.clear()

    def _may_keep(self, rows: range) -> bool:
        if self.mode in {"fresh", "forward"}:
            return False
        if self.mode == "kept" or rows in self._graphs:
            return True
        held = sum(len(kept) for kept in self._graphs) + len(rows)
        if held * self.calibration.graph_bytes_per_sample > self.graph_budget:
            return False
        times = self.calibration.seconds  # a kept product is the reverse one without the gradient before it
        return times.get("kept", 0.0) <= times.get("forward", float("inf"))

    def _mode_without_graph(self) -> str:
        if self.mode != "auto":
            return self.mode
        times = {mode: t for mode, t in self.calibration.seconds.items() if mode != "kept"}
        return min(times, key=lambda mode: times[mode]) if times else "fresh"

    def _calibrate(self) -> Calibration:
        rows = range(min(CALIBRATION_SAMPLES, self.problem.num_samples))
        space_generator = torch.Generator().manual_seed(0)
        vector = [torch.randn(p.shape, generator=space_generator).to(p) for p in self.parameters]
        ours = {storage_id(p) for p in self.parameters}
        with self.problem.context(len(rows)):
            with saved_bytes(lambda: ours) as count:
                graph = self.kernel.build(rows)
                size = count()
            reference = graph.product(vector, keep=False)
            seconds, rejected = self._time_modes(rows, vector, reference)
        return Calibration(len(rows), -(-size // len(rows)), seconds, rejected)

    def _time_modes(
        self, rows: range, vector: list[torch.Tensor], reference: Parts
    ) -> tuple[dict[str, float], dict[str, str]]:
        if self.mode != "auto":
            return {}, {}
        graph = self.kernel.build(rows)
        modes: dict[str, Callable[[], Parts]] = {
            "kept": lambda: graph.product(vector),
            "fresh": lambda: self.kernel.build(rows).product(vector, keep=False),
            "forward": lambda: self.kernel.forward_product(rows, vector),
        }
        seconds: dict[str, float] = {}
        rejected: dict[str, str] = {}
        for mode, run in modes.items():
            try:
                if not self._agrees(run(), reference):  # the first call also warms up
                    rejected[mode] = "its product differs from the reverse one"
                    continue
                seconds[mode] = min(self._timed(run) for _ in range(2))
            except (RuntimeError, CurvtoolError) as error:
                if isinstance(error, (torch.OutOfMemoryError, OutOfMemory)) or mode != "forward":
                    raise
                rejected[mode] = str(error).strip().splitlines()[0][:200]
        return seconds, rejected

    def _timed(self, run: Callable[[], Parts]) -> float:
        self._synchronize()
        begin = time.perf_counter()
        run()
        self._synchronize()
        return time.perf_counter() - begin

    def _synchronize(self) -> None:
        if self.problem.device.type == "cuda":
            torch.cuda.synchronize(self.problem.device)

    @staticmethod
    def _agrees(parts: Parts, reference: Parts) -> bool:
        difference = norm = 0.0
        for part, true in zip(parts, reference, strict=True):
            zero = 0.0 if true is None else float(torch.linalg.vector_norm(true))
            norm += zero**2
            if part is not None:
                gap = part if true is None else part - true
                difference += float(torch.linalg.vector_norm(gap)) ** 2
            else:
                difference += zero**2
        return difference <= AGREEMENT**2 * norm or difference == 0.0
