"""The input-output Jacobian of a model, J_i = dz_i / dx_i, an example at a time."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, cast

import torch

from curvtool import device
from curvtool.errors import DerivativeError
from curvtool.operators.calibration import AGREEMENT, measured_seconds
from curvtool.operators.memory import default_budget, return_freed_pages, saved_bytes
from curvtool.operators.products import LinearizedFunction
from curvtool.problem.kinks import rows_at_kinks
from curvtool.problem.statistics import refuse_per_sample
from curvtool.vocabulary import Form

if TYPE_CHECKING:
    from curvtool.problem.problem import Problem

MAX_BATCH, MAX_BATCH_ON_A_GPU = 20, 256  # what stays in a processor's caches beats what fills its threads
_TRIAL = 8  # examples on which the forms of the operations are timed, where there are 16 times as many
_AS_FAST = 1.15  # times the fastest form: of those, the one whose graph holds least is taken


class InputJacobian:
    """J_i of shape (C, d) for every example i: C outputs (flattened), d input coordinates.

    In evaluation mode the examples of a batch do not touch one another, so that one backward pass gives J_i^T u_i for
    all of them. Tokens are differentiated by their embeddings.

    Args:
        problem: the model and its inputs; neither targets nor a loss are needed.
        batch_size: examples a batch; if None parts alike of at most 20 on the CPU, 256 elsewhere.
        memory_budget: bytes for a batch's Jacobian rows; half of the free memory if None.
        form: of the model's operations: `torch`, `rewritten` or `channels-last`; `auto` times a product in each, and
            takes the one that holds least memory of those that are as fast.

    Raises:
        UsageError: CT003, batches have statistics, so that no example has a Jacobian of its own.

    Attributes:
        output_dim: C.
        input_dim: d.
        noise: relative error of the norms by rounding, as measured; None where it was not.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        batch_size: int | None = None,
        memory_budget: int | None = None,
        form: str = "auto",
    ) -> None:
        self.noise: float | None = None
        refuse_per_sample(problem.statistics_batch, "jacnorm takes Jacobians", "leave --batch-norm out for jacnorm")
        self.memory_budget = default_budget(problem.device) if memory_budget is None else memory_budget
        problem.keep_data_on_device(self.memory_budget // 4)
        self.problem = problem if form == "auto" else problem.in_form(cast(Form, form))
        if form == "auto" and problem.num_samples >= 16 * _TRIAL:
            self.problem = self._in_best_form(problem)
        sample = self._linearized(self.problem.sampled(2), range(min(2, problem.num_samples)))
        self.output_dim = sample.output.shape[1]
        self.input_dim = sum(leaf[0].numel() for leaf in sample.leaves)
        self._check_independent(sample)
        most = MAX_BATCH if device.is_host(problem.device) else MAX_BATCH_ON_A_GPU
        self.batch_size = batch_size or -(-problem.num_samples // -(-problem.num_samples // most))

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, C, d)."""
        return self.problem.num_samples, self.output_dim, self.input_dim

    def _in_best_form(self, plain: Problem) -> Problem:
        """In the form that holds least of those that are as fast on a few examples and give the same products."""
        few = plain.sampled(_TRIAL)
        forms = [form for form, changes in few.rewritable(few.first(_TRIAL)).items() if changes]
        reference: torch.Tensor | None = None
        trials: list[tuple[float, int, Form]] = []
        for form in forms if len(forms) > 1 else []:
            problem = few.in_form(form)
            try:
                with saved_bytes() as count:
                    linear = self._linearized(problem, range(_TRIAL))
                    size = count(problem.storages())
                product = partial(linear.vjp, torch.ones_like(linear.output))
                with problem.context(_TRIAL):
                    found = product()  # warms up too
                    seconds = min(measured_seconds(product, plain.device) for _ in range(3))
            except (RuntimeError, DerivativeError):
                if form == "torch":
                    raise
                continue  # a rewrite that fails is no error: torch's own operations are there
            reference = found if reference is None else reference
            gap = torch.linalg.vector_norm(found - reference)
            if bool(gap <= AGREEMENT * torch.linalg.vector_norm(reference)):
                trials.append((seconds, size, form))
            del linear, product  # one graph at a time
        return_freed_pages()
        fastest = min((seconds for seconds, _, _ in trials), default=0.0)
        as_fast = [trial for trial in trials if trial[0] <= _AS_FAST * fastest]
        return plain.in_form(min(as_fast, key=lambda trial: trial[1])[2]) if as_fast else plain

    def of_rows(self, rows: Sequence[int]) -> InputJacobian:
        """The Jacobians of these examples alone, in this order."""
        other = copy.copy(self)
        other.problem = self.problem.restricted(rows, self.problem.dtype)
        return other

    def rows_across_kinks(self) -> list[int]:
        """The samples that rounding moves across a kink of the model, as far as they are seen (`rows_at_kinks`)."""
        return rows_at_kinks(self.problem, self.batch_size).across

    def linearize(self, rows: range) -> LinearizedFunction:
        """The outputs of these examples with their graph; products with it inside `problem.context()`."""
        return self._linearized(self.problem, rows)

    @staticmethod
    def _linearized(problem: Problem, rows: range) -> LinearizedFunction:
        with problem.context(len(rows)):
            output, leaves = problem.input_function(problem.batch(rows))
        return LinearizedFunction(output, leaves)

    def vjp(self, rows: range, cotangent: torch.Tensor) -> torch.Tensor:
        """J_i^T u_i for u of shape (n, C): shape (n, d)."""
        linear = self.linearize(rows)
        with self.problem.context(len(rows)):
            return linear.vjp(cotangent)

    def jvp(self, rows: range, tangent: torch.Tensor) -> torch.Tensor:
        """J_i v_i for v of shape (n, d): shape (n, C)."""
        linear = self.linearize(rows)
        with self.problem.context(len(rows)):
            return linear.jvp(tangent)

    def materialize(self, rows: range | None = None) -> torch.Tensor:
        """The dense Jacobians of these examples (all if None): shape (n, C, d); C backward passes."""
        rows = rows or range(self.problem.num_samples)
        return self.rows_of(self.linearize(rows), len(rows))

    def rows_of(self, linear: LinearizedFunction, batch_size: int) -> torch.Tensor:
        """All rows of a linearized batch's Jacobians, shape (n, C, d): an output at a time, all examples at once."""
        cotangent = torch.zeros_like(linear.output)
        rows = cotangent.new_empty(len(cotangent), self.output_dim, self.input_dim)
        with self.problem.context(batch_size):
            for index in range(self.output_dim):
                cotangent[:, index] = 1
                rows[:, index] = linear.vjp(cotangent)
                cotangent[:, index] = 0
        return rows

    def columns_of(self, linear: LinearizedFunction, batch_size: int) -> torch.Tensor:
        """All columns likewise, shape (n, C, d): an input coordinate at a time; for few inputs and many outputs."""
        columns = []
        tangent = torch.zeros(
            len(linear.output), self.input_dim, dtype=linear.output.dtype, device=linear.output.device
        )
        with self.problem.context(batch_size):
            for index in range(self.input_dim):
                tangent[:, index] = 1
                columns.append(linear.jvp(tangent))
                tangent[:, index] = 0
        return torch.stack(columns, dim=2)

    def dense_of(self, linear: LinearizedFunction, batch_size: int) -> torch.Tensor:
        """The dense Jacobians of a linearized batch, shape (n, C, d), by the fewer of rows and columns."""
        fewer_outputs = self.output_dim <= self.input_dim
        return (self.rows_of if fewer_outputs else self.columns_of)(linear, batch_size)

    def _check_independent(self, linear: LinearizedFunction) -> None:
        """One product shows whether an example's output depends on another one's input, on two examples of all."""
        if len(linear.output) < 2:
            return
        cotangent = torch.zeros_like(linear.output)
        cotangent[0] = 1
        with self.problem.context(len(linear.output)):
            reached = linear.vjp(cotangent)[1]
        if bool((reached != 0).any()):
            raise DerivativeError(
                "CT051",
                "one example's output depends on another example's input, so a Jacobian an example does not exist",
                expected="examples that are independent in evaluation mode",
                received="a derivative across examples that is not zero",
                remedy="use layers with fixed statistics (BatchNorm with track_running_stats=True)",
            )
