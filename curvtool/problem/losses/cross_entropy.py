"""Softmax cross-entropy on class indices or probabilities."""

from __future__ import annotations

import torch
from torch.nn import functional

from curvtool.errors import LoadError
from curvtool.problem.losses.base import Loss

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
