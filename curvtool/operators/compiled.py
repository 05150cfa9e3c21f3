"""Products compiled by `torch.compile`: traced once to a graph of plain operations, whose steps are then fused.

The trace (`make_fx`) goes through autograd itself, so that the derivatives are traced as they run here, rewrites
included, and what is compiled holds no derivative any more. Samples and vector are its arguments; an operation whose
shape or path depends on their values cannot be traced and is told as such.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from curvtool import device
from curvtool.errors import DerivativeError
from curvtool.operators.calibration import agree, measured_seconds
from curvtool.operators.product_ways import BatchMatrix
from curvtool.operators.products import Parts
from curvtool.problem.traced import Tensors, TracedProblem

if TYPE_CHECKING:
    from curvtool.problem.problem import Problem

# of a fresh product's time on the CPU; measured for an MLP, ResNet20 and a GPT of 1 million parameters
EXPECTED_SAVING, EXPECTED_SAVING_ON_A_GPU = 0.3, 0.5
SECONDS_PER_NODE = 0.03  # of a compilation, by the nodes of the trace; from 0.01 to 0.07 on two cores
LEAST_SECONDS = 10.0  # a saving that is worth a trace
NUM_CHECKS = 2  # of compiled products against the usual ones, on other samples where there are some


class CompiledProduct:
    """A v for batches of one size.

    Args:
        problem: whose samples are multiplied.
        make_matrix: the matrix of a batch of a problem.
        num_rows: the samples of every batch.

    Attributes:
        num_nodes: the operations of the trace.

    Raises:
        RuntimeError: the product cannot be traced.
    """

    def __init__(self, problem: Problem, make_matrix: Callable[[Problem], BatchMatrix], num_rows: int) -> None:
        from torch.fx.experimental.proxy_tensor import make_fx  # a start-up without it is faster

        self.problem = problem
        rows = range(num_rows)
        present: list[bool] = []

        def product(tensors: Tensors, vector: Sequence[torch.Tensor]) -> list[torch.Tensor]:
            parts = make_matrix(TracedProblem(problem, tensors)).build(rows).product(vector, keep=False)
            present[:] = [part is not None for part in parts]
            return [part.detach() for part in parts if part is not None]

        tensors = TracedProblem.tensors(problem, rows)
        vector = [torch.empty_like(p) for p in tensors.parameters.values()]
        traced = make_fx(product, tracing_mode="fake", _allow_non_fake_inputs=True)(tensors, vector)
        self.num_nodes = len(traced.graph.nodes)
        self._present = present
        self._run = torch.compile(traced, fullgraph=True, dynamic=False)

    def product(self, rows: range, vector: Sequence[torch.Tensor]) -> Parts:
        """A_b v in parts; the first call compiles."""
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parts = iter(self._run(TracedProblem.tensors(self.problem, rows), list(vector)))
        return [next(parts) if there else None for there in self._present]


class Compilation:
    """Compiles the products of full batches once that pays: when it is thought to save more than it costs.

    How many products are to come is not known. As many are assumed as have been, so that at worst twice the time is
    spent that foresight would have. What was compiled is compared with the usual product on two batches, and taken
    only where it is the same to rounding and faster.

    Args:
        problem: whose samples are multiplied.
        make_matrix: the matrix of a batch of a problem.
        asked: compile at once, and fail where that fails.

    Attributes:
        seconds: of a product of a full batch in the usual way and compiled, where both were timed.
        rejected: why nothing is compiled, where that was tried.
    """

    def __init__(self, problem: Problem, make_matrix: Callable[[Problem], BatchMatrix], asked: bool) -> None:
        self.problem, self._make_matrix, self._asked = problem, make_matrix, asked
        self.seconds: dict[str, float] = {}
        self.rejected: str | None = None
        self._num_rows = self._num_usual = self._num_checked = 0
        self._each: float | None = None
        self._product: CompiledProduct | None = None

    @property
    def in_use(self) -> bool:
        """Whether products are compiled now."""
        return self._num_checked > 0 and self.rejected is None

    def give_up(self, reason: str) -> None:
        """Products go the usual way from here on."""
        self._product, self.rejected = None, reason

    def product(self, rows: range, vector: Sequence[torch.Tensor], usual: Callable[[], Parts]) -> Parts:
        """A_b v in parts, compiled or in the usual way.

        Raises:
            DerivativeError: CT055, compiled products were asked for, and cannot be had.
        """
        self._num_rows = self._num_rows or len(rows)
        if self.rejected is not None or len(rows) != self._num_rows:
            return usual()
        if self._num_checked < NUM_CHECKS:
            return self._checked(rows, vector, usual) if self._pays() else self._counted(usual)
        assert self._product is not None
        return self._product.product(rows, vector)

    def _counted(self, usual: Callable[[], Parts]) -> Parts:
        """The usual product; the second one, which is warm, is timed."""
        self._num_usual += 1
        if self._num_usual != 2:
            return usual()
        found, self._each = self._timed(usual)
        return found

    def _pays(self) -> bool:
        """Whether a compilation is thought to save more than it costs, or has been made."""
        if self._asked or self._num_checked:
            return True
        if self._each is None:
            return False
        expected = EXPECTED_SAVING if device.is_host(self.problem.device) else EXPECTED_SAVING_ON_A_GPU
        saving = self._num_usual * self._each * expected
        if saving < LEAST_SECONDS or (self._product is None and not self._trace()):
            return False
        assert self._product is not None
        return saving >= self._product.num_nodes * SECONDS_PER_NODE

    def _trace(self) -> bool:
        try:
            self._product = CompiledProduct(self.problem, self._make_matrix, self._num_rows)
        except Exception as error:  # whatever torch or the model raises: the usual way is there
            self._reject(error)
        return self._product is not None

    def _checked(self, rows: range, vector: Sequence[torch.Tensor], usual: Callable[[], Parts]) -> Parts:
        """The usual product, with which the compiled one is compared."""
        found, usual_seconds = self._timed(usual)
        if self._product is None and not self._trace():
            return found
        assert self._product is not None
        compiled = self._product
        try:
            same = agree(compiled.product(rows, vector), found, _tolerance(self.problem.dtype))
            _, seconds = self._timed(lambda: compiled.product(rows, vector))
        except Exception as error:  # a missing compiler, an operation it does not know, memory
            self._reject(error)
            return found
        self._num_checked += 1
        self.seconds = {"usual": usual_seconds, "compiled": seconds}
        if not same:
            self._reject("its product differs from the usual one")
        elif not self._asked and seconds > usual_seconds:
            self._reject(f"{seconds:.3g} s for a batch, the usual way takes {usual_seconds:.3g} s")
        return found

    def _reject(self, reason: str | Exception) -> None:
        text = (str(reason).strip().splitlines() or [type(reason).__name__])[0][:200]
        self.give_up(text)
        if self._asked:
            raise DerivativeError(
                "CT055",
                "products cannot be compiled",
                expected="a product that torch.compile takes, the same as the usual one to rounding",
                received=text,
                remedy="--hvp auto (recurrent layers and paths that depend on the data cannot be traced; on the CPU "
                "torch.compile needs a C++ compiler)",
            ) from (reason if isinstance(reason, Exception) else None)

    def _timed(self, run: Callable[[], Parts]) -> tuple[Parts, float]:
        found: list[Parts] = []
        seconds = measured_seconds(lambda: found.append(run()), self.problem.device)
        return found[0], seconds


def _tolerance(dtype: torch.dtype) -> float:
    """Of a compiled product against the usual one: both round, in another order."""
    return max(1e3 * torch.finfo(dtype).eps, 1e-10)
