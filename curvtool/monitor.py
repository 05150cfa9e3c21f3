"""The curvature of a network while it trains: a few lines in a loop, or a callback for Lightning or Hugging Face."""

from __future__ import annotations

import math
import random
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from curvtool import device
from curvtool.errors import Interrupted, LoadError, UsageError
from curvtool.estimators.eigenvalues import eigenvalues
from curvtool.estimators.trace import trace
from curvtool.operators.curvature import CurvatureOperator
from curvtool.operators.named import OPERATORS
from curvtool.operators.preflight import Preflight, preflight_curvature
from curvtool.problem.problem import Problem
from curvtool.problem.validation import check_problem

if TYPE_CHECKING:
    from curvtool.problem.losses.base import Loss

Log = Callable[[dict[str, float], int], None]


_TURN = threading.RLock()  # of the process


class Monitor:
    """Measures a model's largest eigenvalue and trace every so many steps, and leaves the model and its training alone.

        monitor = curvtool.Monitor((inputs, targets), "cross-entropy", every=100, log=print)
        for step, batch in enumerate(batches):
            ...
            optimizer.step()
            monitor(model, step, lr=0.1)

    The weights are copied, the model runs in evaluation mode and is put back, and so are the generators of random
    numbers. A model with BatchNorm is measured by its running statistics, and a warning says so; `batch_norm="batch"`
    measures what training sees. Forward hooks of the model's own are called as in any forward pass. Every search starts
    from the vectors of the one before.

    The numbers, by name: `curvature/lambda_max` and its estimated error `curvature/lambda_max_error`,
    `curvature/trace` and `curvature/trace_stderr`, `curvature/loss`; with a learning rate `curvature/lambda_max_x_lr`
    and its error, against 2. Another matrix's begin as `curvature/ggn/`. The exports of reports have the same names.

    Args:
        data: inputs and targets, a Dataset or a finite DataLoader: always the same samples, as a fixed part of the
            training data.
        loss: by name, a callable, or a `Loss`.
        every: steps from one measurement to the next; the first is at the first call.
        k: eigenvalues to find, of which the largest is logged; more make warm starts better.
        with_trace: whether to estimate the trace too.
        rtol: relative error of the eigenvalues, and half-width of the trace's interval (ten times that).
        operator: `hessian`, `ggn`, `fisher` or `empirical-fisher`.
        log: called with the numbers and the step.
        seed: of the random vectors.
        batch_norm: `eval`, or `batch` for the statistics of consecutive batches of the data, as in training; see
            `Problem`.
        batch_size: of these batches; a DataLoader's own if None.

    Threads take turns, whichever monitors they call: a measurement takes the model's parameters out for the time of a
    call, and sets what torch has for the whole process. Training itself must not go on meanwhile in another thread.

    A model that has diverged is no reason to stop: its loss alone is logged, as NaN or infinity.

    Attributes:
        history: all that was measured, a dictionary a measurement, `step` among its entries.

    Raises:
        UsageError: CT001, no such matrix, or no such number of steps. A call raises DerivativeError where the model's
            second derivative is missing or wrong (CT050 to CT059), at the first measurement.
    """

    def __init__(
        self,
        data: Any,
        loss: str | Loss | Callable[..., torch.Tensor] = "cross-entropy",
        *,
        every: int = 100,
        k: int = 1,
        with_trace: bool = True,
        rtol: float = 1e-2,
        operator: str = "hessian",
        log: Log | None = None,
        seed: int = 0,
        batch_norm: str = "eval",
        batch_size: int | None = None,
    ) -> None:
        if operator not in OPERATORS or every < 1:
            received = f"operator={operator!r}, every={every}"
            raise UsageError(
                "CT001",
                "no such measurement",
                expected=f"an operator of {', '.join(OPERATORS)}; every 1 step or more",
                received=received,
                remedy='Monitor(data, "cross-entropy", every=100)',
            )
        self.data, self.loss, self.every, self.k, self.with_trace = data, loss, every, k, with_trace
        self.rtol, self.operator, self.log, self.seed = rtol, operator, log, seed
        self.batch_norm, self.batch_size = batch_norm, batch_size
        self._prefix = "curvature/" if operator == "hessian" else f"curvature/{operator}/"
        self.history: list[dict[str, float]] = []
        self._vectors: torch.Tensor | None = None
        self._last: int | None = None
        self._is_checked = False

    def __call__(self, model: Any, step: int, lr: float | None = None) -> dict[str, float] | None:
        """Measures where it is time to; None where it is not.

        Args:
            model: a `torch.nn.Module`, as it is now.
            step: of the optimizer.
            lr: the learning rate, to log its product with the largest eigenvalue.
        """
        with _TURN:
            return self._in_turn(model, step, lr)

    def _in_turn(self, model: Any, step: int, lr: float | None) -> dict[str, float] | None:
        if self._last is not None and step - self._last < self.every:
            return None
        self._last = step
        with _generators_kept(), torch.inference_mode(False), torch.enable_grad():
            found = self.measure(model)
        if lr is not None and f"{self._prefix}lambda_max" in found:
            for name in ("", "_error"):
                found[f"{self._prefix}lambda_max_x_lr{name}"] = float(lr) * found[f"{self._prefix}lambda_max{name}"]
        self.history.append({"step": step, **found})
        if self.log is not None:
            self.log(found, step)
        return found

    def measure(self, model: Any) -> dict[str, float]:
        """The numbers of a model as it is now; of one that has diverged its loss alone, which is NaN or infinite."""
        if not all(bool(torch.isfinite(p).all()) for p in model.parameters()):
            return {"curvature/loss": math.nan}
        try:
            with _TURN:
                made = Problem(model, self.data, self.loss, batch_norm=self.batch_norm, batch_size=self.batch_size)
                return self._measured(made)
        except LoadError as error:
            if error.code != "CT026":  # the loss is not finite
                raise
            return {"curvature/loss": math.inf}
        except Interrupted as error:
            raise error.cause from error

    def _measured(self, problem: Problem) -> dict[str, float]:
        checks: Preflight | None = None
        if not self._is_checked:  # what does not fit, or a wrong derivative, is refused, once
            check_problem(problem)
            for code, told in problem.cautions:
                told = told.replace("--batch-norm batch --batch-size N", 'Monitor(…, batch_norm="batch", batch_size=N)')
                warnings.warn(f"{code}: {told}", stacklevel=_level_outside())
            checks = preflight_curvature(problem, OPERATORS[self.operator])
            self._is_checked = True
        matrix: CurvatureOperator = OPERATORS[self.operator](problem)
        matrix.noise = checks.noise_floor if checks is not None else None  # else as measured: it changes with training
        loss = matrix.loss_and_gradient()[0]
        start = self._vectors
        if start is not None and start.shape[1] != matrix.space.dim:
            start = None
        pairs = eigenvalues(matrix, self.k, which="la", rtol=self.rtol, start=start, seed=self.seed)
        self._vectors = pairs.vectors
        first = pairs.eigenvalues[0]
        found = {f"{self._prefix}lambda_max": first.value, f"{self._prefix}lambda_max_error": first.error_bound}
        if self.with_trace:
            estimate = trace(matrix, rtol=min(10 * self.rtol, 0.5), seed=self.seed)
            found[f"{self._prefix}trace"] = estimate.value
            if estimate.stderr is not None:
                found[f"{self._prefix}trace_stderr"] = estimate.stderr
        return {**found, "curvature/loss": loss}


def _level_outside() -> int:
    """The `stacklevel` of whoever calls the monitor, a training loop or a trainer."""
    level, frame = 1, sys._getframe(1)
    while frame.f_globals.get("__name__", "").startswith("curvtool.") and frame.f_back is not None:
        level, frame = level + 1, frame.f_back
    return level


@contextmanager
def _generators_kept() -> Iterator[None]:
    """Training draws the numbers that it would have drawn."""
    python, numpy_ = random.getstate(), np.random.get_state()  # noqa: NPY002
    with device.generators_kept():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy_)  # noqa: NPY002


def lightning_callback(monitor: Monitor) -> Any:
    """A `lightning.pytorch.Callback` that measures after every training batch for which it is time, and logs.

    Raises:
        ImportError: Lightning is not installed.
    """
    from lightning.pytorch import Callback

    class CurvatureCallback(Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
            found = monitor(module, trainer.global_step, _first_lr(trainer.optimizers))
            if found is not None and trainer.logger is not None:
                trainer.logger.log_metrics(found, step=trainer.global_step)

    return CurvatureCallback()


def hugging_face_callback(monitor: Monitor) -> Any:
    """A `transformers.TrainerCallback` that measures at the end of steps for which it is time.

    The numbers go to `monitor.log` and `monitor.history`, and to the trainer's `state.log_history`.

    Raises:
        ImportError: transformers is not installed.
    """
    from transformers import TrainerCallback

    class CurvatureCallback(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            scheduler = given.get("lr_scheduler")
            lr = scheduler.get_last_lr()[0] if scheduler is not None else None
            found = monitor(given["model"], state.global_step, lr)
            if found is not None:
                state.log_history.append({"step": state.global_step, **found})

    return CurvatureCallback()


def _first_lr(optimizers: Any) -> float | None:
    groups: list[Mapping[str, Any]] = [group for each in optimizers for group in each.param_groups]
    return float(groups[0]["lr"]) if groups else None
