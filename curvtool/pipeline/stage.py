"""What every analysis of a run works with, and what it leaves for the report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch

from curvtool.config.schema import RunConfig
from curvtool.errors import STOPPING, CurvtoolError, Interrupted, cause_of
from curvtool.estimators.observer import Observer
from curvtool.operators.curvature import CurvatureOperator
from curvtool.operators.execution import DIFFERENCES
from curvtool.operators.memory import return_freed_pages
from curvtool.operators.named import OPERATORS
from curvtool.operators.preflight import Preflight, preflight_curvature
from curvtool.pipeline import settings
from curvtool.pipeline.load import Loaded
from curvtool.problem.problem import Problem
from curvtool.report import model as report

Result = TypeVar("Result")


@dataclass
class Stage:
    """One loaded problem and its settings; an analysis adds its checks, its warnings and what stopped it.

    Attributes:
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
        return settings.memory_budget(self.config, self.problem.device)

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
        """A line for whoever reads the numbers."""
        self.warnings.append(report.Warning(code=code, message=message))

    def make_operator(self, name: str, problem: Problem | None = None, **options: Any) -> CurvatureOperator:
        """The matrix of this name with the run's settings."""
        return OPERATORS[name](
            problem or self.problem,
            batch_size=settings.batch_size(self.config),
            mode=self.config.compute.hvp,
            memory_budget=self.budget,
            **{"form": self.config.compute.operations, **options},
        )

    def checked_operator(self, name: str, *, keep_gradient: bool = False, **options: Any) -> CurvatureOperator:
        """The matrix of this name, after the preflight, and with loss and gradient taken."""
        self.observer.begin("preflight on a small batch")
        self.checks = preflight_curvature(
            self.problem, OPERATORS[name], memory_budget=self.budget, mode=self.config.compute.hvp
        )
        return_freed_pages()  # of its float64 copies
        operator = self.make_operator(name, **options)
        self.observer.begin("loss and gradient")
        self.loss_value, gradient = operator.loss_and_gradient()
        self.grad_norm = float(operator.space.norm(gradient))
        if operator.execution.mode == DIFFERENCES:
            self.observer.begin("two steps of differences")
            self.checks = replace(self.checks, noise_floor=operator.difference_error(self.config.compute.seed))
        self.gradient = gradient if keep_gradient else None
        return operator

    def take_gradient(self) -> torch.Tensor | None:
        """The gradient as a unit vector, shape (P,), given up here; None where it is zero or was taken before."""
        gradient, self.gradient = self.gradient, None
        return gradient / self.grad_norm if gradient is not None and self.grad_norm else None

    def estimate(self, run: Callable[[], Result]) -> Result:
        """What an estimator returns; what it had when it was stopped, with `stopped` set.

        Raises:
            CurvtoolError, KeyboardInterrupt: what stopped it, where it had nothing yet.
        """
        try:
            return run()
        except Interrupted as stop:
            if stop.partial is None:
                raise stop.cause from None
            self.stopped = stop.cause
            partial: Result = stop.partial
            return partial

    def attempt(self, run: Callable[[], None]) -> None:
        """Something after the numbers are there: what stops it is told at the end, and loses nothing."""
        if self.stopped is not None:
            return
        try:
            run()
        except Interrupted as stop:
            self.stopped = stop.cause
        except STOPPING as error:
            self.stopped = cause_of(error)

    def save(self, write: Callable[[], None]) -> None:
        """A file of what there is, also after a stop; what fails is told at the end."""
        try:
            write()
        except CurvtoolError as error:
            self.stopped = self.stopped or error

    def close(self, operator: CurvatureOperator, is_zero: bool, rtol: float) -> None:
        """The warnings and the modes that every analysis of a matrix shares."""
        if self.noise > rtol and operator.execution.mode != DIFFERENCES:  # of those CT217 tells
            exact = self.problem.dtype == torch.float64
            remedy = (
                "the model gives other values each time it is called" if exact else "--dtype float64 for better ones"
            )
            self.warn(
                "CT205",
                f"the noise of {self.dtype_name} products ({self.noise:.1e}) is above rtol {rtol:g}: {remedy}",
            )
        if operator.execution.mode == DIFFERENCES:
            step = operator.execution.difference_step
            self.warn(
                "CT217",
                f"products are central differences of gradients (step {step.length:g}), good to about "
                f"{self.noise:.1e} (by two steps): approximate, where the model cannot be differentiated twice",
            )
        if operator.piece_size < operator.batch_size:
            self.warn(
                "CT216",
                f"memory ran out with batches of {operator.batch_size}, so they were run in pieces of "
                f"{operator.piece_size}: --batch-size {operator.piece_size} saves the attempt",
            )
        if is_zero:
            self.warn(
                "CT207",
                "every product was exactly zero: the loss does not depend on these parameters "
                "(is --output-key right?), is cut off from them (no_grad, numpy, checkpointing by re-entering), "
                "is linear in them, or is saturated",
            )
        self.modes = {
            "ad_mode": operator.execution.describe(),
            "operations": operator.execution.form,
            "groups_at_once": operator.stack.height_used,
            "vectors_at_once": operator.block.width_used,
            "timings": operator.execution.timings,
            "left_out": operator.execution.left_out,
            "batch_size": operator.batch_size,
        }
