"""The losses that have a name: cross-entropy, binary cross-entropy on logits, and squared error."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from curvtool.errors import LoadError, UsageError, suggest
from curvtool.problem.callable_loss import CallableLoss
from curvtool.problem.loss import Loss

_CHUNK = 2**22  # logits that a softmax product works on at a time


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
        """p u - p <p, u> with p = softmax(z), a target that counts; times the sum of a target's probabilities.

        A constant added to u changes nothing; u less its entry at the most probable class keeps the digits that
        p u - p <p, u> would cancel where p is nearly 1.
        """
        last = self._classes_last(output, target)
        dim = -1 if last else 1
        logits, direction = (t.detach().flatten(0, -2) if last else t.detach() for t in (output, tangent))
        if target.is_floating_point():
            counts = target.sum(dim).reshape(logits[..., 0].shape if last else logits[:, 0].shape)
        else:
            counts = (target != self.ignore_index).reshape(logits[..., 0].shape if last else logits[:, 0].shape)
        product = torch.empty_like(direction)
        rows = max(1, _CHUNK // max(logits[0].numel(), 1))  # so that what stands beside the result stays small
        for start in range(0, len(logits), rows):
            part = slice(start, start + rows)
            p = logits[part].softmax(dim)
            shifted = direction[part] - direction[part].gather(dim, p.argmax(dim, keepdim=True))
            shifted.mul_(p)
            torch.addcmul(shifted, p, shifted.sum(dim, keepdim=True), value=-1, out=product[part])
            product[part].mul_(counts[part].unsqueeze(dim))
        return product.view(tangent.shape) if last else product

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
    def _classes_last(output: torch.Tensor, target: torch.Tensor) -> bool:
        torch_shape = (output.shape[0], *output.shape[2:])
        return tuple(target.shape) != torch_shape and target.shape == output.shape[:-1]

    @classmethod
    def _classes_second(cls, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return output.movedim(-1, 1) if cls._classes_last(output, target) else output

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
        if output.dim() > 2 and target.shape == output.shape[:-1] and output.shape[1] == output.shape[-1]:
            raise LoadError(
                "CT028",
                "cannot tell which dimension of the output holds the classes",
                expected=f"outputs of shape {(len(target), 'classes', *target.shape[1:])} with sizes that tell apart",
                received=f"{tuple(output.shape)}, which reads both ways",
                remedy="--loss module:function with the dimension named in it, or one position more or fewer",
            )
        logits = self._classes_second(output, target)
        shapes = [(output.shape[0], *output.shape[2:]), tuple(output.shape[:-1])]
        if logits.dim() < 2 or tuple(target.shape) != (logits.shape[0], *logits.shape[2:]):
            raise LoadError(
                "CT028",
                "the model's output does not fit the targets",
                expected=f"targets of shape {' or '.join(map(str, dict.fromkeys(shapes)))} "
                f"for an output of shape {tuple(output.shape)}",
                received=f"targets of shape {tuple(target.shape)}",
                remedy="save them without the last dimension: targets.squeeze(-1)"
                if tuple(target.shape) in {(*shape, 1) for shape in shapes}
                else "pass --output-key or --target-key, or another --loss",
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
