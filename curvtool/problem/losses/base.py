"""What every loss knows: its sum over a batch and the weight that makes the mean of the whole data torch's own.

With l_i the loss of sample i and w_i its weight, L = (1/W) sum_i l_i and W = sum_i w_i: batches are summed and divided
once by the global weight, so that a ragged last batch or unequal token counts change nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch

from curvtool.errors import LoadError
from curvtool.problem.module import select_prediction
from curvtool.problem.tree import Tree


def tolerance_of(dtype: torch.dtype) -> float:
    """By how much the mean of all data may depend, relative, on how they are cut into batches: rounding."""
    return max(300 * torch.finfo(dtype).eps, 1e-9)


class Loss(ABC):
    """One loss: `sum` over a batch and the batch's `weight`."""

    name: str
    is_likelihood = False  # minus the logarithm of a density of the targets, of an exponential family in the outputs
    counts_targets = False  # the mean is over targets (tokens) that count, of which a sample may have several

    @abstractmethod
    def sum(self, output: torch.Tensor, target: Any) -> torch.Tensor:
        """Sum of the losses of a batch, a scalar that can be differentiated twice."""

    @abstractmethod
    def sample_weights(self, target: Any) -> torch.Tensor:
        """What each sample adds to the weight, shape (n,)."""

    def weight(self, target: Any) -> float:
        """What the sum is divided by in the mean over this batch alone (samples, tokens or elements)."""
        return float(self.sample_weights(target).sum())

    def prediction(self, output: Any, key: str | None) -> torch.Tensor:
        """The one tensor of a model's output that the loss reads: under `key`, else `logits`, else the first.

        Raises:
            LoadError: CT028, the output holds no such tensor.
        """
        return select_prediction(output, key)

    def targets_from(self, inputs: Tree) -> tuple[torch.Tensor, str] | None:
        """Targets that the inputs hold themselves, and how they are read off; None where they hold none."""
        return None

    def output_hessian_product(self, output: torch.Tensor, target: Any, tangent: torch.Tensor) -> torch.Tensor:
        """(d2 sum / dz2) u for the outputs z of a batch and u of their shape; by two derivatives of `sum`."""
        with torch.enable_grad():
            variable = output.detach().requires_grad_()
            value = self.sum(variable, target)
            if not value.requires_grad:
                return torch.zeros_like(output)
            (gradient,) = torch.autograd.grad(value, variable, create_graph=True, materialize_grads=True)
            if not gradient.requires_grad:
                return torch.zeros_like(output)
            return torch.autograd.grad(gradient, variable, tangent, materialize_grads=True)[0]

    def terms(self, output: torch.Tensor, target: Any) -> torch.Tensor:
        """The losses that `sum` adds up, one for each independent draw of a target, shape (T,).

        Raises:
            LoadError: CT028, the loss knows only their sum.
        """
        raise LoadError(
            "CT028",
            f"the loss {self.name} gives no loss a sample, which the empirical Fisher needs",
            expected="one number a sample",
            received="their mean alone",
            remedy="return one number a sample from the loss, or take --operator ggn",
        )

    def check_targets(self, output: torch.Tensor, target: torch.Tensor, first_row: int = 0) -> None:
        """Raises `LoadError` where targets cannot belong to an output of this shape; any do, unless a loss says so.

        Args:
            output: of the shape of the predictions for these targets; its numbers are not looked at.
            target: some samples' targets.
            first_row: where they stand in the data, for the message.
        """
        return

    def check_prediction(self, prediction: torch.Tensor) -> None:
        """Raises `LoadError` where the first predictions are not what the loss takes."""
        return
