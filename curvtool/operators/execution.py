"""How a batch's product is run: with its graph kept, afresh, or by forward mode; timings choose.

A fresh Hessian product costs about three gradients, a further product on a kept graph about two (measured: speed.md);
forward over reverse lies between, and which one wins depends on the model. So graphs are kept while a memory budget
allows, and a timed product of each kind on a small batch chooses the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING

import torch

from curvtool import device
from curvtool.errors import DerivativeError, UsageError
from curvtool.operators.calibration import (
    CALIBRATION_SAMPLES,
    Calibration,
    Way,
    calibrate,
    num_timed,
)
from curvtool.operators.compiled import Compilation
from curvtool.operators.differences import Step
from curvtool.operators.memory import default_budget
from curvtool.operators.product_ways import WAYS, BatchMatrix, Differences, Forward, Fresh, Graph, ProductWay
from curvtool.operators.products import Parts
from curvtool.problem.scattering import LEAST_PARTS, part_size
from curvtool.problem.stacked import StackedProblem
from curvtool.vocabulary import Form
from curvtool.words import counted

if TYPE_CHECKING:
    from curvtool.problem.problem import Problem

DIFFERENCED_SAMPLES = 128  # only many samples show a kink between the two points of a difference
MAX_BATCH = 512
MAX_SMALL_BATCH, SMALL_GRAPH = 8192, 2**24  # below so many bytes of a graph calls alone cost
SHARDED_BATCH = 4  # samples a rank


def _check_sharded(mode: str, form: str) -> None:
    """Refuses what would let the ranks go different ways.

    Raises:
        UsageError: CT003.
    """
    if mode not in {"auto", "kept", "fresh"} or form not in {"auto", "torch"}:
        raise UsageError(
            "CT003",
            "with --shard-parameters products are run in reverse mode with torch's own operations",
            expected="--hvp auto, kept or fresh, and --operations auto or torch",
            received=f"--hvp {mode} --operations {form}",
            remedy="leave them out",
        )


class Execution:
    """Runs the products of batches of one problem with one kind of matrix.

    Args:
        problem: whose data these are.
        make_matrix: the matrix of a batch of a problem.
        mode: `kept`, `fresh`, `forward`, `compiled` or `finite-difference` for every batch; `auto` keeps what the
            budget allows and takes the fastest of the others but the last for the rest.
        memory_budget: bytes for graphs and vectors together; half of the free memory if None.
        form: of the model's operations: `torch`, `rewritten`, `channels-last`; `auto` takes the fastest.
        calibration: as it was taken of the same problem before, with these options.
    """

    def __init__(
        self,
        problem: Problem,
        make_matrix: Callable[[Problem], BatchMatrix],
        mode: str = "auto",
        memory_budget: int | None = None,
        form: str = "auto",
        calibration: Calibration | None = None,
    ) -> None:
        self.problem, self.mode = problem, mode
        if calibration is not None:
            self.calibration = calibration
        if problem.sharded is not None:
            _check_sharded(mode, form)
            self.mode, form = "kept" if mode == "kept" else "fresh", "torch"
        self._asked_form = "torch" if self.is_approximate else form
        self.memory_budget = default_budget(problem.device) if memory_budget is None else memory_budget
        self.parameters = list(problem.parameters.values())
        self._make_matrix = make_matrix
        self._matrices: dict[tuple[Form, int], BatchMatrix] = {}
        # by the samples (empty ranges, which Python calls equal, apart) and the height of the stack
        self._graphs: dict[tuple[int, int, int], Graph] = {}
        problem.keep_data_on_device(self.memory_budget // 4)

    @cached_property
    def calibration(self) -> Calibration:
        """Timings and sizes on a few samples, taken at the first use.

        Raises:
            DerivativeError: CT055, what was asked for fails or gives another product than torch's reverse mode.
        """
        if self.is_approximate:
            return self._of_gradients()
        found = self._calibrated(thorough=False)
        pinned = self.mode != "auto" or (self._asked_form != "auto" and Way("kept", found.form) in found.rejected)
        if pinned and found.rejected and not found.seconds:
            way, reason = next(iter(found.rejected.items()))
            raise DerivativeError(
                "CT055",
                f"products cannot be run as asked for ({way})",
                expected="the same product as torch's own operations in reverse mode",
                received=reason,
                remedy="--hvp auto and --operations auto",
            )
        return found

    def _of_gradients(self) -> Calibration:
        """The size of gradients' graphs alone: there is one way, and nothing to compare it with."""
        few = self.problem.first(CALIBRATION_SAMPLES)
        with self.problem.context(len(few)):
            size = -(-Differences.required_of(self.plain_matrix).gradient_bytes(few) // len(few))
        return Calibration(len(few), {"torch": size}, {}, {})

    @property
    def form(self) -> Form:
        """The form of the model's operations; torch's own reverse products need no calibration."""
        plain = self._asked_form == "torch" and self.way is not None and WAYS[self._timed_mode].is_reverse
        return "torch" if plain else self.calibration.form

    @property
    def timings(self) -> dict[str, float]:
        """Seconds of the ways that were compared, by name; empty where nothing was."""
        found = {str(way): seconds for way, seconds in self.compared.seconds.items()} if self.compared else {}
        compiled: Compilation | None = self.__dict__.get("_compilation")  # not made for a report's sake
        return found | {f"{way}, a full batch": each for way, each in (compiled.seconds if compiled else {}).items()}

    @property
    def left_out(self) -> dict[str, str]:
        """The ways that were not compared, with the reason."""
        found = {str(way): reason for way, reason in self.compared.rejected.items()} if self.compared else {}
        compiled: Compilation | None = self.__dict__.get("_compilation")
        reason = compiled.rejected if compiled else None
        return found if reason is None else found | {"compiled": reason}

    @cached_property
    def _compilation(self) -> Compilation:
        problem = self.problem.in_form(self.form)
        return Compilation(problem, self._make_matrix, asked=self.way is not None and self.way.compiles)

    @property
    def way(self) -> type[ProductWay] | None:
        """The way that was asked for; None where it is open."""
        return None if self.mode == "auto" else WAYS[self.mode]

    @property
    def is_approximate(self) -> bool:
        """Whether products are differences of gradients."""
        return self.way is not None and self.way.is_approximate

    @property
    def _timed_mode(self) -> str:
        """The mode that is timed on a few samples; fresh products stand for compiled ones, and for differences of
        gradients, whose graphs are as large."""
        if self.way is None:
            return "auto"
        return self.way.name if self.way.is_timed else Fresh.name

    @property
    def compared(self) -> Calibration | None:
        """The calibration where one was taken."""
        found: Calibration | None = self.__dict__.get("calibration")
        return found

    def calibrate_thoroughly(self) -> Calibration:
        """Every way timed, also those that would not be taken."""
        return self._calibrated(thorough=True)

    def _calibrated(self, thorough: bool) -> Calibration:
        num = self.problem.num_samples
        few = self.problem.sampled(max(CALIBRATION_SAMPLES, num_timed(num)))
        matrices = cache(lambda form: self._make_matrix(few.in_form(form)))
        return calibrate(few, num, matrices, self.graph_budget, self._timed_mode, self._asked_form, thorough)

    @property
    def matrix(self) -> BatchMatrix:
        """The matrix of a batch with the operations in the chosen form."""
        return self._matrix_in(self.form)

    @property
    def plain_matrix(self) -> BatchMatrix:
        """The same with torch's own operations."""
        return self._matrix_in("torch")

    def _matrix_in(self, form: Form, height: int = 1) -> BatchMatrix:
        if (form, height) not in self._matrices:
            problem = self.problem.in_form(form)
            self._matrices[form, height] = self._make_matrix(StackedProblem(problem, height) if height > 1 else problem)
        return self._matrices[form, height]

    @property
    def graph_budget(self) -> int:
        """Bytes for kept graphs: the vectors have the other half of the budget."""
        return self.memory_budget // 2

    def batch_size(self, total: int) -> int:
        """The samples of a batch: at most half of what the budget holds, 512, and an eighth of the data.

        Where the graphs are small, up to 8,192: as many as take 16 MiB, within a part of the data.
        """
        if self.problem.sharded is not None:  # the same on all ranks, whose shares may differ
            return SHARDED_BATCH
        per_sample = max(self.calibration.graph_bytes_per_sample, 1)
        size = MAX_SMALL_BATCH
        while size > MAX_BATCH and size * per_sample > SMALL_GRAPH:
            size //= 2
        while size > 1 and size * per_sample * 2 > self.graph_budget:
            size //= 2
        eighth = max(-(-total // LEAST_PARTS), CALIBRATION_SAMPLES)
        return min(size, max(min(eighth, MAX_BATCH), part_size(total)), total)

    @property
    def small_batch_size(self) -> int:
        """Samples whose graph is so small that a batch of fewer saves no memory worth naming, at most 8,192."""
        small = min(SMALL_GRAPH, self.graph_budget // 2)
        return min(MAX_SMALL_BATCH, small // max(self.calibration.graph_bytes_per_sample, 1))

    def describe(self) -> str:
        """The way as it was used, for the report."""
        if not self._may_compile:
            return self.mode
        rest = "compiled" if self._compilation.in_use else self._way_without_graph.name
        return f"kept ({counted(len(self._graphs), 'graph')}), else {rest}" if self._graphs else rest

    def product(self, rows: range, vector: Sequence[torch.Tensor], height: int = 1, keep: bool = True) -> Parts:
        """A_b v for the matrix of these samples, summed over them, in parts.

        Args:
            rows: the samples.
            vector: v, in parts of the parameters' shapes.
            height: the number of equal groups that the samples are cut into, where each has a matrix and a vector of
                its own: parts and result have the groups as their first dimension.
            keep: whether these samples' graph may be kept.
        """
        with self.problem.context(len(rows)):
            graph = self.kept(rows, height) if keep else None
            if graph is not None:
                return graph.product(vector)
            matrix = self._matrix_of(height)
            usual = partial(self._way_without_graph.product, matrix, rows, vector, self)
            if height > 1 or not self._may_compile:
                return usual()
            return self._compilation.product(rows, vector, usual)

    @property
    def _may_compile(self) -> bool:
        return self.way is None or self.way.compiles

    @cached_property
    def difference_step(self) -> Step:
        """The step of central differences, found on a few samples of all the data."""
        few = self.problem.sampled(DIFFERENCED_SAMPLES)
        with self.problem.context():
            return Differences.required_of(self._make_matrix(few)).difference_step(range(few.num_samples))

    def kept(self, rows: range, height: int = 1) -> Graph | None:
        """The kept graph of these samples, made now where the budget allows; None where it does not."""
        key = rows.start, rows.stop, height
        graph = self._graphs.get(key)
        if graph is None and self._may_keep(rows):
            graph = self._graphs[key] = self._matrix_of(height).build(rows)
        return graph

    @property
    def shares_graphs(self) -> bool:
        """Whether a product makes graphs that several vectors could share, those of some batches not being kept."""
        if self.way not in {None, Fresh} or not self.matrix.keeping_pays or self._way_without_graph is not Fresh:
            return False
        size = self.problem.num_samples * self.calibration.graph_bytes_per_sample
        return self.way is Fresh or size > self.graph_budget

    def graph_for_several(self, rows: range) -> Graph | None:
        """The graph to multiply several vectors by: the kept one, or one made for them; None where none is of use."""
        graph = self.kept(rows)
        return self.matrix.build(rows) if graph is None and self.shares_graphs else graph

    def _matrix_of(self, height: int) -> BatchMatrix:
        """Stacks are run with torch's own operations, which know how to be mapped."""
        return self.matrix if height == 1 else self._matrix_in("torch", height)

    def shrink(self) -> None:
        """After memory ran out: gives up all kept graphs, and half of the budget for new ones."""
        self.release()
        self._compilation.give_up("memory ran out")
        self.memory_budget //= 2
        device.give_back(self.problem.device)

    def release(self) -> None:
        """Gives up all kept graphs."""
        self._graphs.clear()

    def _seconds(self, mode: str) -> float:
        calibration = self.calibration
        return calibration.seconds.get(Way(mode, calibration.form), math.inf)

    def _may_keep(self, rows: range) -> bool:
        if self.way is not None:
            return self.way.keeps
        held = sum(stop - start for start, stop, _ in self._graphs) + len(rows)
        if held * self.calibration.graph_bytes_per_sample > self.graph_budget:
            return False
        if not self.matrix.keeping_pays:
            return self._is_rejected("forward")
        # a kept product is the reverse one without the gradient before it
        return self._seconds("forward") >= self._seconds("kept")

    def _is_rejected(self, mode: str) -> bool:
        return Way(mode, self.calibration.form) in self.calibration.rejected

    @property
    def _way_without_graph(self) -> type[ProductWay]:
        if self.way is not None:
            return self.way
        if self._is_rejected("forward"):
            return Fresh
        if not self.matrix.keeping_pays:
            return Forward
        return Forward if self._seconds("forward") < self._seconds("fresh") else Fresh
