"""What every loss knows: its sum over a batch and the weight that makes the mean of the whole data torch's own.

With l_i the loss of sample i and w_i its weight, L = (1/W) sum_i l_i and W = sum_i w_i: batches are summed and divided
once by the global weight, so that a ragged last batch or unequal token counts change nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch

from curvtool.errors import LoadError


class Loss(ABC):
    """One loss: `sum` over a batch and the batch's `weight`."""

    name: str
    is_likelihood = False  # minus the logarithm of a density of the targets, of an exponential family in the outputs

    @abstractmethod
    def sum(self, output: torch.Tensor, target: Any) -> torch.Tensor:
        """Sum of the losses of a batch, a scalar that can be differentiated twice."""

    @abstractmethod
    def weight(self, target: Any) -> float:
        """What the sum is divided by in the mean over this batch alone (samples, tokens or elements)."""

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

    def check_targets(self, output: torch.Tensor, target: torch.Tensor) -> None:
        """Raises `LoadError` where targets cannot belong to an output of this shape; any do, unless a loss says so."""
        return
