"""Losses: each knows its sum over a batch and the weight that makes the mean of the whole data torch's own.

With l_i the loss of sample i and w_i its weight, L = (1/W) sum_i l_i and W = sum_i w_i: batches are summed and divided
once by the global weight, so that a ragged last batch or unequal token counts change nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from curvtool.errors import LoadError, UsageError, suggest


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


class CrossEntropy(Loss):
    """Softmax cross-entropy on logits; targets are class indices or class probabilities.

    Classes stand in dimension 1 as torch has them, or last where the targets have the shape of the output less its
    last dimension (tokens). The weight is the number of targets other than `ignore_index`.
    """

    name = "cross-entropy"
    is_likelihood = True

    def __init__(self, ignore_index: int = -100) -> None:
        self.ignore_index = ignore_index

    def sum(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """`sum_i -log softmax(z_i)[y_i]` over the targets that count."""
        output = self._classes_second(output, target)
        if not target.is_floating_point():
            target = target.long()
        return functional.cross_entropy(output, target, ignore_index=self.ignore_index, reduction="sum")

    def output_hessian_product(self, output: torch.Tensor, target: torch.Tensor, tangent: torch.Tensor) -> torch.Tensor:
        """p u - p <p, u> with p = softmax(z), a target that counts; times the sum of a target's probabilities."""
        logits, direction = self._classes_second(output, target), self._classes_second(tangent, target)
        p = logits.detach().softmax(1)
        product = p * direction
        product = product - p * product.sum(1, keepdim=True)
        if target.is_floating_point():
            product = product * target.sum(1, keepdim=True)
        else:
            product = product * (target != self.ignore_index).unsqueeze(1)
        return product if logits is output else product.movedim(1, -1)

    def terms(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """One for every target (a position of a sample is a target of its own); 0 for those that do not count."""
        output = self._classes_second(output, target)
        if not target.is_floating_point():
            target = target.long()
        return functional.cross_entropy(output, target, ignore_index=self.ignore_index, reduction="none").flatten()

    def weight(self, target: torch.Tensor) -> float:
        """The number of targets that count."""
        if target.is_floating_point():
            # probabilities have a class dimension; real numbers without one are refused by `check_targets`
            return float(target.numel() // target.shape[1] if target.dim() > 1 else len(target))
        return float((target != self.ignore_index).sum())

    @staticmethod
    def _classes_second(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        torch_shape = (output.shape[0], *output.shape[2:])
        if tuple(target.shape) != torch_shape and target.shape == output.shape[:-1]:
            return output.movedim(-1, 1)
        return output

    def check_targets(self, output: torch.Tensor, target: torch.Tensor) -> None:
        """Class indices as whole numbers within the output's classes, one a position."""
        if target.is_floating_point():
            if target.shape == output.shape:
                return
            raise LoadError(
                "CT028",
                "cross-entropy cannot use these targets",
                expected=f"class indices (int64), or probabilities of shape {tuple(output.shape)}",
                received=f"{target.dtype} of shape {tuple(target.shape)}",
                remedy="store the targets as int64; for real-valued targets use --loss mse",
            )
        logits = self._classes_second(output, target)
        if logits.dim() < 2 or tuple(target.shape) != (logits.shape[0], *logits.shape[2:]):
            raise LoadError(
                "CT028",
                "the model's output does not fit the targets",
                expected=f"targets of shape {(output.shape[0], *output.shape[2:])} or {tuple(output.shape[:-1])} "
                f"for an output of shape {tuple(output.shape)}",
                received=f"targets of shape {tuple(target.shape)}",
                remedy="pass --output-key or --target-key, or another --loss",
            )
        num_classes = logits.shape[1]
        bad = ((target < 0) | (target >= num_classes)) & (target != self.ignore_index)
        if bool(bad.any()):
            where = torch.nonzero(bad)[0].tolist()
            raise LoadError(
                "CT022",
                f"label out of range in row {where[0]} (the first row is 0)",
                expected=f"0 to {num_classes - 1} ({num_classes} outputs), or the ignored {self.ignore_index}",
                received=f"{int(target[tuple(where)])}" + (f" at position {where[1:]} of the row" if where[1:] else ""),
                remedy="check the labels (do they start at 1?) and the number of classes of the factory's model",
            )


class _Elementwise(Loss):
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


class BCEWithLogits(_Elementwise):
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


class MSE(_Elementwise):
    """Squared error, `(z - y)^2`, mean over all elements: minus the log-density of a Gaussian of variance 1/2."""

    name = "mse"

    def elements(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """`(z - y)^2`."""
        return functional.mse_loss(output, target, reduction="none")

    def output_hessian_product(self, output: torch.Tensor, target: torch.Tensor, tangent: torch.Tensor) -> torch.Tensor:
        """2 u."""
        return 2 * tangent


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

    def _value(self, output: Any, target: Any) -> torch.Tensor:
        value = self.function(output, target)
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
                expected=f"a scalar (the batch's mean) or {num_samples} numbers, one a sample",
                received=f"{value.numel()} numbers",
                remedy="reduce over outputs and positions inside the loss",
            )
        return value

    def weight(self, target: Any) -> float:
        """The number of samples."""
        while not isinstance(target, torch.Tensor):
            target = next(iter(target.values())) if isinstance(target, dict) else target[0]
        return float(target.shape[0])


_BY_NAME: dict[str, type[Loss]] = {
    "cross-entropy": CrossEntropy,
    "bce-with-logits": BCEWithLogits,
    "mse": MSE,
}
LOSS_NAMES = tuple(_BY_NAME)


def get_loss(name: str | Loss | Callable[..., torch.Tensor], **options: Any) -> Loss:
    """The loss of a name (`cross-entropy`, `bce-with-logits`, `mse`), a `Loss`, or a callable `loss(output, target)`.

    Raises:
        UsageError: CT003, unknown name or an option that the loss does not have.
    """
    if isinstance(name, Loss):
        return name
    if callable(name):
        return CallableLoss(name, getattr(name, "__qualname__", type(name).__name__))
    canonical = name.strip().lower().replace("_", "-")
    if canonical not in _BY_NAME:
        raise UsageError(
            "CT003",
            f"unknown loss {name!r}",
            expected=f"{', '.join(LOSS_NAMES)}, or package.module:callable",
            received=name,
            remedy=suggest(canonical, LOSS_NAMES),
        )
    try:
        return _BY_NAME[canonical](**options)
    except TypeError as error:
        raise UsageError(
            "CT003",
            f"the loss {canonical} does not take these options",
            received=str(error),
            remedy="leave them out",
        ) from None
