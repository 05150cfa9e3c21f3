"""Which way to run a product is fastest here: each one tried on a few samples of all, and compared with torch's own.

A way is a mode (graphs kept, built afresh, or forward over reverse) and a form of the model's operations (torch's own,
or the rewrites of `problem/rewrites`, plain or with channels last).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from curvtool.device import synchronize
from curvtool.errors import CurvtoolError, OutOfMemory
from curvtool.operators.memory import saved_bytes
from curvtool.operators.product_ways import WAYS, BatchMatrix, ProductWay
from curvtool.operators.products import Parts
from curvtool.problem.rewrites.mode import FORMS
from curvtool.vocabulary import Form

if TYPE_CHECKING:
    from curvtool.problem.problem import Problem

CALIBRATION_SAMPLES = 8
_TIMED_SHARE, _TIMED_SAMPLES = 8, 32  # an eighth of the samples, no more than 32: a calibration stays short
AGREEMENT = 1e-3  # of a way's product with torch's; a wrong rule is off by far more
_HOPELESS = 2.0  # times the fastest: a way that took so long at first is not timed again


@dataclass(frozen=True)
class Way:
    """How a product is run."""

    mode: str
    form: Form

    def __str__(self) -> str:
        return self.mode if self.form == "torch" else f"{self.mode}, {self.form}"


@dataclass(frozen=True)
class Calibration:
    """What a few samples told.

    Attributes:
        num_samples: their number.
        graph_bytes: what a kept graph of the gradient holds, a sample, by the form of the operations.
        seconds: the time of one product on them by way; one that failed or was wrong is not there.
        rejected: ways that were left out, with the reason.
    """

    num_samples: int
    graph_bytes: dict[Form, int]
    seconds: dict[Way, float]
    rejected: dict[Way, str]

    @property
    def form(self) -> Form:
        """The form of the fastest way."""
        if self.seconds:
            return min(self.seconds, key=lambda way: self.seconds[way]).form
        return next(iter(self.graph_bytes))

    @property
    def graph_bytes_per_sample(self) -> int:
        """What a kept graph holds in that form."""
        return self.graph_bytes[self.form]


def num_timed(num_samples: int) -> int:
    """How many samples a product is timed on."""
    return min(max(num_samples // _TIMED_SHARE, 2), _TIMED_SAMPLES, num_samples)


def calibrate(
    problem: Problem,
    num_samples: int,
    matrices: Callable[[Form], BatchMatrix],
    budget: int,
    mode: str = "auto",
    form: str = "auto",
    thorough: bool = False,
) -> Calibration:
    """Times the ways that a mode and a form leave open, where arithmetic does not decide between them.

    Args:
        problem: a few samples drawn over all the data, which are taken.
        num_samples: the number of all.
        matrices: the matrix of the few with the operations in a form.
        budget: bytes for kept graphs: where all fit, the other modes need not be timed.
        mode: `auto`, or a way that is timed.
        form: `auto`, or one of `FORMS`.
        thorough: time every way all the same.
    """
    few = problem.first(CALIBRATION_SAMPLES)
    timed = problem.first(num_timed(num_samples))
    generator = torch.Generator().manual_seed(0)
    vector = [torch.randn(p.shape, generator=generator).to(p) for p in problem.parameters.values()]
    with problem.context(len(timed)):
        calls = matrices("torch").rewritable(few) if form == "auto" else {}
        forms = [each for each in FORMS if (calls[each] if form == "auto" else each == form)]
        trial = _Trial(problem, timed, vector, matrices)
        if trial.graph_bytes(forms[0], problem.first(1)) * len(few) > budget // 4:
            few = problem.first(1)
        sizes = {each: -(-trial.graph_bytes(each, few) // len(few)) for each in forms}
        modes = [each for each, way in WAYS.items() if way.is_timed and mode in ("auto", each)]
        if mode == "auto" and not thorough:
            fits = max(sizes.values()) * num_samples <= budget
            pays = matrices(forms[0]).keeping_pays
            modes = ["forward"] if not pays else ["kept"] if fits else modes
        # what is likely fast comes first, so that the others need not be timed to the end
        for each in reversed(forms):
            for one in modes:
                trial.try_out(Way(one, each), alone=len(modes) * len(forms) == 1)
    return Calibration(len(timed), sizes, trial.seconds, trial.rejected)


class _Trial:
    """Ways tried one after the other on the same samples."""

    def __init__(
        self, problem: Problem, rows: range, vector: list[torch.Tensor], matrices: Callable[[Form], BatchMatrix]
    ) -> None:
        self.problem, self.rows, self.vector, self.matrices = problem, rows, vector, matrices
        self.seconds: dict[Way, float] = {}
        self.rejected: dict[Way, str] = {}
        self._few = problem.first(CALIBRATION_SAMPLES)
        self._reference: Parts | None = None

    def graph_bytes(self, form: Form, rows: range) -> int:
        """Of the graph on these samples; what the problem holds itself, the samples included, does not count."""
        with saved_bytes() as count:
            graph = self.matrices(form).build(rows)
            size = count(self.problem.storages())
        del graph
        return size

    def try_out(self, way: Way, *, alone: bool) -> None:
        """Its seconds, or why it is left out; a way that stands alone need not be timed."""
        matrix, run_by = self.matrices(way.form), WAYS[way.mode]
        ours = not run_by.is_reverse or way.form != "torch"
        try:
            if ours and not self._agrees(matrix, run_by):
                self.rejected[way] = "its product differs from the reverse one"
            elif not alone:
                run = run_by.repeated(matrix, self.rows, self.vector)
                first = self._timed(run)  # warms up too
                best = min(self.seconds.values(), default=float("inf"))
                again = [] if first > _HOPELESS * best else [self._timed(run), self._timed(run)]
                self.seconds[way] = min(first, *again) if again else first
        except (RuntimeError, CurvtoolError) as error:
            if isinstance(error, (torch.OutOfMemoryError, OutOfMemory)) or not ours:
                raise
            self.rejected[way] = str(error).strip().splitlines()[0][:200]

    def _agrees(self, matrix: BatchMatrix, way: type[ProductWay]) -> bool:
        """With torch's own reverse product, on a few samples."""
        if self._reference is None:
            self._reference = self.matrices("torch").build(self._few).product(self.vector, keep=False)
        return agree(way.product(matrix, self._few, self.vector), self._reference)

    def _timed(self, run: Callable[[], Parts]) -> float:
        return measured_seconds(run, self.problem.device)


def measured_seconds(run: Callable[[], object], device: torch.device) -> float:
    """The wall time of a call, the device's work included."""
    synchronize(device)
    begin = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - begin


def agree(parts: Parts, reference: Parts, tolerance: float = AGREEMENT) -> bool:
    """Whether a product is another one up to rounding, kinks included; within the tolerance in the norm.

    A reference that is not finite is no objection to a product that is not either: the loss is to be blamed, and its
    own check tells. With a finite product it disagrees.
    """
    difference = norm = 0.0
    for part, true in zip(parts, reference, strict=True):
        size = 0.0 if true is None else float(torch.linalg.vector_norm(true))
        norm += size**2
        if part is None:
            difference += size**2
        else:
            gap = part if true is None else part - true
            difference += float(torch.linalg.vector_norm(gap)) ** 2
    if not math.isfinite(norm):
        return not all(part is None or bool(torch.isfinite(part).all()) for part in parts)
    return difference <= tolerance**2 * norm or difference == 0.0
