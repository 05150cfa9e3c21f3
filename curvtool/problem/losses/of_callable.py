"""A user's loss function as a loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from curvtool.errors import LoadError
from curvtool.problem.losses.base import Loss
from curvtool.words import counted


class CallableLoss(Loss):
    """A user's `loss(output, target)`: one number a sample, or the mean of the batch; the weight is the samples."""

    def __init__(self, function: Callable[..., torch.Tensor], name: str) -> None:
        self.function, self.name = function, name

    def sum(self, output: Any, target: Any) -> torch.Tensor:
        """Sum of one number a sample, or the returned mean times the number of samples."""
        value = self._value(output, target)
        return value * self.weight(target) if value.dim() == 0 else value.sum()

    def terms(self, output: Any, target: Any) -> torch.Tensor:
        """One a sample, where the function returns that."""
        value = self._value(output, target)
        return super().terms(output, target) if value.dim() == 0 else value.flatten()

    def returns_mean(self, output: Any, target: Any) -> bool:
        """Whether the function returns one number for a batch."""
        return self._value(output, target).dim() == 0

    def _value(self, output: Any, target: Any) -> torch.Tensor:
        try:
            value = self.function(output, target)
        except (AttributeError, TypeError, ValueError, KeyError, IndexError, NameError, AssertionError) as error:
            raise LoadError(
                "CT028",
                f"the loss {self.name} fails",
                expected="loss(output, target) on a batch of outputs and its targets",
                received=f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:300]}",
                remedy=f"try it on an output of shape {tuple(getattr(output, 'shape', ()))} by hand",
            ) from error
        if not isinstance(value, torch.Tensor):
            raise LoadError(
                "CT028",
                f"the loss {self.name} returned no tensor",
                expected="a tensor: one number a sample, or the batch's mean",
                received=type(value).__name__,
                remedy="return a torch tensor that depends on the output",
            )
        num_samples = int(self.weight(target))
        if value.dim() > 0 and (value.shape[0] != num_samples or value.numel() != num_samples):
            raise LoadError(
                "CT028",
                f"the loss {self.name} returned a tensor of shape {tuple(value.shape)}",
                expected=f"a scalar (the batch's mean) or {counted(num_samples, 'number')}, one a sample",
                received=counted(value.numel(), "number"),
                remedy="reduce over outputs and positions inside the loss",
            )
        return value

    def weight(self, target: Any) -> float:
        """The number of samples."""
        return float(len(_first_tensor(target)))

    def sample_weights(self, target: Any) -> torch.Tensor:
        """1 each."""
        return torch.ones(len(_first_tensor(target)))


def _first_tensor(target: Any) -> torch.Tensor:
    while not isinstance(target, torch.Tensor):
        target = next(iter(target.values())) if isinstance(target, dict) else target[0]
    return target
