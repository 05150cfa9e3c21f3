"""One loaded problem and the state of its run: what every analysis works with, and what it leaves for the report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from curvtool.cluster.solo import Solo
from curvtool.config.schema import RunConfig
from curvtool.errors import STOPPING, CurvtoolError, Interrupted, cause_of
from curvtool.estimators.observer import Observer
from curvtool.operators.base import LinearOperator
from curvtool.operators.calibration import Calibration
from curvtool.operators.curvature import CurvatureOperator
from curvtool.operators.memory import return_freed_pages
from curvtool.operators.named import OPERATORS
from curvtool.operators.preflight import Preflight, preflight_curvature
from curvtool.operators.witness import Witnessed, agree, witness_of
from curvtool.problem.problem import Problem
from curvtool.problem.vectors import independent, load_vectors
from curvtool.report import model as report
from curvtool.session import settings
from curvtool.session.cache import scale_of
from curvtool.session.load import Loaded
from curvtool.session.shared import Shared
from curvtool.words import counted

Result = TypeVar("Result")


@dataclass
class Stage:
    """One loaded problem and its settings; an analysis adds its checks, its warnings and what stopped it.

    Attributes:
        cluster: the ranks that work on it.
        shared: what the analyses of the problem have in common.
        checks: what the preflight found.
        loss_value: L; None where no loss takes part.
        grad_norm: the norm of its gradient, likewise.
        gradient: the gradient itself, until someone takes it.
        modes: how products were run, for the provenance.
        stopped: what ended the analysis early.
    """

    config: RunConfig
    loaded: Loaded
    observer: Observer
    shared: Shared
    cluster: Solo = field(default_factory=Solo)
    warnings: list[report.Warning] = field(default_factory=list)
    checks: Preflight | None = None
    loss_value: float | None = None
    grad_norm: float | None = None
    gradient: torch.Tensor | None = None
    modes: dict[str, Any] = field(default_factory=dict)
    stopped: BaseException | None = None

    @property
    def problem(self) -> Problem:
        """What is measured."""
        return self.loaded.problem

    @property
    def budget(self) -> int:
        """Bytes for graphs and vectors together."""
        return settings.memory_budget(self.config, self.problem.device, self.cluster)

    @property
    def noise(self) -> float:
        """The noise floor of the working dtype's products, relative: as measured, and never below its rounding."""
        measured = (self.checks.noise_floor or 0.0) if self.checks is not None else 0.0
        return max(measured, torch.finfo(self.problem.dtype).eps)

    @property
    def dtype_name(self) -> str:
        """The working dtype as a user types it."""
        return str(self.problem.dtype).removeprefix("torch.")

    def warn(self, code: str, message: str) -> None:
        """Adds a warning to the report."""
        self.warnings.append(report.Warning(code=code, message=message))

    def make_operator(self, name: str, problem: Problem | None = None, **options: Any) -> CurvatureOperator:
        """The matrix of this name with the run's settings."""
        chosen = {"batch_size": settings.batch_size(self.config), "form": self.config.compute.operations}
        return OPERATORS[name](
            problem or self.problem,
            mode=self.config.compute.hvp,
            memory_budget=self.budget,
            cluster=self.cluster,
            **{**chosen, **options},
        )

    def _operator_as_before(self, name: str, options: dict[str, Any]) -> CurvatureOperator:
        """The matrix of this name. A run that goes on makes it with the implementation and batch size of before."""
        made: list[CurvatureOperator] = []

        def choose() -> dict[str, Any]:
            made.append(self._calibrated_operator(name, options))
            form = str(made[0].execution.form)
            return {"ranks": self.cluster.size, "form": form, "batch_size": made[0].batch_size}

        chosen = self.observer.ledger.chosen(f"operator {name} {sorted(options.items())}", choose)
        if made:
            return made[0]
        same = {"form": chosen["form"]}
        if chosen["ranks"] == self.cluster.size:
            same["batch_size"] = chosen["batch_size"]
        return self.make_operator(name, **{**same, **options})

    def _calibrated_operator(self, name: str, options: dict[str, Any]) -> CurvatureOperator:
        """The matrix of this name, its product ways compared unless an earlier run of the same did so."""
        cache = self.shared.cache
        entry = f"product ways of {name} {sorted(options.items())} 2^{scale_of(self.budget)} bytes"
        found: Calibration | None = cache.find(entry) if name in self.shared.as_before else None
        operator = self.make_operator(name, **options, calibration=found)
        if found is not None:
            cache.used.append(entry)
        operator.execution.form  # noqa: B018, asking for it compares the ways where they are open
        if found is None and operator.execution.compared is not None:
            cache.keep(entry, operator.execution.compared)
        return operator

    def _preflight_of(self, name: str) -> Preflight:
        """What the preflight of a matrix finds, or found in an earlier run of the same; see `session/cache.py`."""
        cache, kind = self.shared.cache, OPERATORS[name]
        entry = f"preflight of {name}"
        self.observer.begin("preflight on a small batch")
        witness = None if cache.path is None else witness_of(kind, self.problem)
        before: Witnessed | None = cache.find(entry)
        if before is not None and agree(before.witness, witness, torch.finfo(self.problem.dtype).eps):
            cache.used.append(entry)
            self.shared.as_before.add(name)
            self.observer.notice(
                "preflight: as an earlier run of the same model and data found it (a product on a few samples is still "
                "the same); --no-cache measures again"
            )
            return before.checks
        checks = preflight_curvature(self.problem, kind, memory_budget=self.budget, mode=self.config.compute.hvp)
        return_freed_pages()  # of its float64 copies
        # what failed may have been short of memory
        if witness is not None and not checks.unavailable and checks.without_float64 is None:
            cache.keep(entry, Witnessed(checks, witness))
        return checks

    def checked_operator(self, name: str, *, keep_gradient: bool = False, **options: Any) -> CurvatureOperator:
        """The matrix of this name, after its preflight; takes loss, gradient and the gradient's norm too."""
        shared = self.shared
        if name not in shared.checks:
            shared.checks[name] = self._preflight_of(name)
        operator = shared.operator(name, options)
        if operator is None:
            operator = self._operator_as_before(name, options)
            shared.keep(name, options, operator)
            if operator.execution.is_approximate:
                self.observer.begin("two steps of differences")
                noise = operator.difference_error(self.config.compute.seed)
                shared.checks[name] = replace(shared.checks[name], noise_floor=noise)
        noises = [each for each in self.cluster.gather_objects(shared.checks[name].noise_floor) if each is not None]
        if noises:  # the ranks' products may round differently, and they are to stop alike
            shared.checks[name] = replace(shared.checks[name], noise_floor=max(noises))
        operator.noise = shared.checks[name].noise_floor
        if shared.loss_value is None or keep_gradient:
            self.observer.begin("loss and gradient")
            shared.loss_value, gradient = operator.loss_and_gradient()
            shared.grad_norm = float(operator.space.norm(gradient))
            self.gradient = gradient if keep_gradient else None
        self.checks, self.loss_value, self.grad_norm = shared.checks[name], shared.loss_value, shared.grad_norm
        return operator

    def deflation_vectors(self, path: str) -> torch.Tensor:
        """The vectors of the file that are independent, shape (k, P), on the host; those that are not are named.

        Raises:
            LoadError: as `load_vectors`.
        """
        given = load_vectors(Path(path), self.problem.shapes)
        kept = independent(given)
        if len(kept) < len(given):
            self.warn(
                "CT251",
                f"{len(given) - len(kept)} of {counted(len(given), 'vector')} in {path} lie in the span of the others "
                "and were left out",
            )
        return kept

    def fitting(self, k: int, most: int) -> int:
        """k as the user set it; a default k is cut to the size of the matrix."""
        given = self.config.sources.get(f"{self.config.analysis.kind}.k", "default") != "default"
        return k if given else max(1, min(k, most))

    def take_gradient(self) -> torch.Tensor | None:
        """The gradient as a unit vector, shape (P,), given up here; None where it is zero or was taken before."""
        gradient, self.gradient = self.gradient, None
        return gradient / self.grad_norm if gradient is not None and self.grad_norm else None

    def estimate(self, name: str, operator: LinearOperator | None, run: Callable[[], Result]) -> Result:
        """The estimator's result: the remembered one of a run that goes on, the partial one of a run that is stopped,
        with `stopped` set.

        Args:
            name: what is estimated.
            operator: whose products it takes.
            run: the estimator.

        Raises:
            CurvtoolError, KeyboardInterrupt: what stopped it, where it had nothing yet.
        """
        try:
            return self.observer.ledger.remembered(name, operator, run)
        except Interrupted as stop:
            if stop.partial is None:
                raise stop.cause from None
            self.stopped = stop.cause
            partial: Result = stop.partial
            return partial

    def attempt(self, run: Callable[[], None]) -> None:
        """Runs what comes after the numbers. An error is kept for the end, so that the numbers are still reported."""
        if self.stopped is not None:
            return
        try:
            run()
        except Interrupted as stop:
            self.stopped = stop.cause
        except STOPPING as error:
            self.stopped = cause_of(error)

    def all_coordinates(self, operator: CurvatureOperator, vectors: torch.Tensor) -> torch.Tensor:
        """Vectors of the operator's space with all their coordinates on the first rank's host, (k, P); none elsewhere.

        One at a time, so that no device holds all of them.
        """
        rows = [operator.space.whole(vector) for vector in vectors] if self.cluster.size == 1 else []
        for vector in vectors if self.cluster.size > 1 else []:
            row = operator.space.whole(vector)
            if self.cluster.is_first:
                rows.append(row.cpu())
        return torch.stack(rows) if rows else vectors.new_empty(0, operator.space.dim)

    def save(self, write: Callable[[], None]) -> None:
        """Writes a file, also after a stop; an error is kept for the end, so that the numbers are still reported."""
        try:
            write()
        except CurvtoolError as error:
            self.stopped = self.stopped or error
