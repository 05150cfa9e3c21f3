"""Losses that are a mean over elements: an output has a target of its own."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch.nn import functional

from curvtool.errors import LoadError
from curvtool.problem.losses.base import Loss


class Elementwise(Loss):
    """A loss that is a mean over elements; its weight is their number."""

    is_likelihood = True

    @abstractmethod
    def elements(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss of every element, in the output's shape; the target has it too."""

    def sum(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Sum over samples and outputs."""
        return self.elements(output, self._target(output, target)).sum()

    def terms(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """One a sample, the sum over its outputs."""
        return self.elements(output, self._target(output, target)).flatten(1).sum(1)

    @staticmethod
    def _target(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        aligned = _aligned(output, target)
        assert aligned is not None, "shapes were checked"
        return aligned.to(output.dtype)

    def weight(self, target: torch.Tensor) -> float:
        """The number of elements (torch's mean divides by samples x outputs)."""
        return float(target.numel())

    def check_targets(self, output: torch.Tensor, target: torch.Tensor) -> None:
        """One target an output; (n,) and (n, 1) are the same, and nothing is broadcast."""
        if _aligned(output, target) is None:
            raise LoadError(
                "CT028",
                f"the model's output does not fit the targets of {self.name}",
                expected=f"targets of shape {tuple(output.shape)}",
                received=f"targets of shape {tuple(target.shape)}",
                remedy="pass --output-key or --target-key, or another --loss; shapes are not broadcast",
            )


def _aligned(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor | None:
    """The target in the output's shape where they differ only by trailing dimensions of size one."""
    if output.shape == target.shape:
        return target

    def core(shape: torch.Size) -> list[int]:
        sizes = list(shape)
        while len(sizes) > 1 and sizes[-1] == 1:
            sizes.pop()
        return sizes

    return target.reshape(output.shape) if core(output.shape) == core(target.shape) else None


class BCEWithLogits(Elementwise):
    """Binary cross-entropy on logits, `-y log s(z) - (1-y) log(1-s(z))`, mean over all elements."""

    name = "bce-with-logits"

    def elements(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """`-y log s(z) - (1-y) log(1-s(z))`."""
        return functional.binary_cross_entropy_with_logits(output, target, reduction="none")

    def output_hessian_product(self, output: torch.Tensor, target: torch.Tensor, tangent: torch.Tensor) -> torch.Tensor:
        """s(z) s(-z) u, whatever the target."""
        return output.detach().sigmoid() * (-output.detach()).sigmoid() * tangent

    def check_targets(self, output: torch.Tensor, target: torch.Tensor) -> None:
        """Targets between 0 and 1, one an output."""
        super().check_targets(output, target)
        bad = (target < 0) | (target > 1)
        if bool(bad.any()):
            row = torch.nonzero(bad)[0].tolist()
            raise LoadError(
                "CT022",
                f"target out of range in row {row[0]} (the first row is 0)",
                expected="0 to 1 for bce-with-logits",
                received=str(target[tuple(row)].item()),
                remedy="use --loss cross-entropy for class indices",
            )


class MSE(Elementwise):
    """Squared error, `(z - y)^2`, mean over all elements: minus the log-density of a Gaussian of variance 1/2."""

    name = "mse"

    def elements(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """`(z - y)^2`."""
        return functional.mse_loss(output, target, reduction="none")

    def output_hessian_product(self, output: torch.Tensor, target: torch.Tensor, tangent: torch.Tensor) -> torch.Tensor:
        """2 u."""
        return 2 * tangent
