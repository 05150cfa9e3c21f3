"""Softmax cross-entropy on class indices or probabilities, and its second half alone on log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from curvtool.errors import LoadError, UsageError
from curvtool.problem.losses.base import Loss
from curvtool.words import counted

_CHUNK = 2**22  # logits that a softmax product works on at a time


class CrossEntropy(Loss):
    """Softmax cross-entropy on logits; targets are class indices or class probabilities.

    Classes stand in dimension 1 as torch has them, or last where the targets have the shape of the output less its
    last dimension (tokens). The weight is the number of targets other than `ignore_index`, or the sum of their
    classes' weights, as torch's mean divides (for probabilities by their number alone).

    Args:
        ignore_index: the class index that does not count.
        class_weights: a factor of the loss of each class, C numbers.
        label_smoothing: the share e of a target that is spread over all classes: (1 - e) y + e / C.

    Raises:
        UsageError: CT003, options out of range.
    """

    name = "cross-entropy"
    counts_targets = True

    def __init__(
        self,
        ignore_index: int = -100,
        class_weights: Sequence[float] | torch.Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        if not 0 <= label_smoothing <= 1:
            raise _bad_option("label_smoothing", "a share from 0 to 1", label_smoothing)
        self.ignore_index, self.label_smoothing = ignore_index, label_smoothing
        self.class_weights = as_weights(class_weights, "class_weights")
        self._placed: dict[tuple[torch.dtype, torch.device], torch.Tensor] = {}

    @property
    def is_likelihood(self) -> bool:  # type: ignore[override]
        """No with class weights: the factor of a drawn label would be another one."""
        return self.class_weights is None

    def sum(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """`sum_i -log softmax(z_i)[y_i]` over the targets that count."""
        return self._losses(output, target, "sum")

    def terms(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """One for every target (a position of a sample is a target of its own); 0 for those that do not count."""
        return self._losses(output, target, "none").flatten()

    def _losses(self, output: torch.Tensor, target: torch.Tensor, reduction: str) -> torch.Tensor:
        target = self.aligned(target)
        output = self._classes_second(output, target)
        if not target.is_floating_point():
            target = target.long()
        return functional.cross_entropy(
            output,
            target,
            weight=self._weights_like(output),
            ignore_index=self.ignore_index,
            reduction=reduction,
            label_smoothing=self.label_smoothing,
        )

    def output_hessian_product(self, output: torch.Tensor, target: torch.Tensor, tangent: torch.Tensor) -> torch.Tensor:
        """s (p u - p <p, u>) with p = softmax(z), a target that counts; s the sum of what its classes are weighted by.

        A constant added to u changes nothing; u less its entry at the most probable class keeps the digits that
        p u - p <p, u> would cancel where p is nearly 1.
        """
        target = self.aligned(target)
        last = self._classes_last(output, target)
        dim = -1 if last else 1
        logits, direction = (t.detach().flatten(0, -2) if last else t.detach() for t in (output, tangent))
        scales = self._scales(self._classes_second(output.detach(), target), target)
        scales = scales.reshape(logits[..., 0].shape if last else logits[:, 0].shape)
        product = torch.empty_like(direction)
        rows = max(1, _CHUNK // max(logits[0].numel(), 1))  # so that what stands beside the result stays small
        for start in range(0, len(logits), rows):
            part = slice(start, start + rows)
            p = logits[part].softmax(dim)
            shifted = direction[part] - direction[part].gather(dim, p.argmax(dim, keepdim=True))
            shifted.mul_(p)
            torch.addcmul(shifted, p, shifted.sum(dim, keepdim=True), value=-1, out=product[part])
            product[part].mul_(scales[part].unsqueeze(dim))
        return product.view(tangent.shape) if last else product

    def _scales(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The sum over classes of a in the loss `-sum_c a_c log p_c`, of the targets' shape; classes second."""
        weights, smooth, num_classes = self._weights_like(logits), self.label_smoothing, logits.shape[1]
        if target.is_floating_point():
            spread = target * (1 - smooth) + smooth / num_classes if smooth else target
            if weights is not None:
                spread = spread * weights.view(1, -1, *[1] * (target.dim() - 2))
            return spread.sum(1)
        counted = target != self.ignore_index
        if weights is None:
            return counted
        own = weights[torch.where(counted, target, 0).long()]
        return counted * ((1 - smooth) * own + smooth / num_classes * weights.sum())

    def sample_weights(self, target: torch.Tensor) -> torch.Tensor:
        """The targets of each sample that count, or the sum of their classes' weights."""
        target = self.aligned(target)
        if target.is_floating_point():
            # probabilities have a class dimension; real numbers without one are refused by `check_targets`
            positions = target[0].numel() // max(target.shape[1], 1) if target.dim() > 1 and len(target) else 1
            return target.new_full((len(target),), positions)
        counted = target != self.ignore_index
        if self.class_weights is None:
            return counted.reshape(len(target), -1).sum(1)
        known = self.class_weights.to(target.device)
        own = known[torch.where(counted, target, 0).long().clamp(0, len(known) - 1)]  # others are refused later
        return (counted * own).reshape(len(target), -1).sum(1)

    def aligned(self, target: torch.Tensor) -> torch.Tensor:
        """The targets as they stand beside the outputs."""
        return target

    def _weights_like(self, output: torch.Tensor) -> torch.Tensor | None:
        """The class weights where and in what the output is; copied there once."""
        if self.class_weights is None:
            return None
        place = (output.dtype, output.device)
        if place not in self._placed:
            self._placed[place] = self.class_weights.to(output)
        return self._placed[place]

    def _classes_last(self, output: torch.Tensor, target: torch.Tensor) -> bool:
        torch_shape = (output.shape[0], *output.shape[2:])
        return tuple(target.shape) != torch_shape and target.shape == output.shape[:-1]

    def _classes_second(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return output.movedim(-1, 1) if self._classes_last(output, target) else output

    def check_targets(self, output: torch.Tensor, target: torch.Tensor, first_row: int = 0) -> None:
        """Class indices as whole numbers within the output's classes, one a position."""
        if target.is_floating_point():
            if target.shape == output.shape:
                self._check_num_weights(output.shape[1])
                return
            raise LoadError(
                "CT028",
                f"{self.name} cannot use these targets",
                expected=f"class indices (int64), or probabilities of shape {tuple(output.shape)}",
                received=f"{target.dtype} of shape {tuple(target.shape)}",
                remedy="store the targets as int64; for real-valued targets use --loss mse",
            )
        self._check_dimensions(output, target)
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
        self._check_num_weights(num_classes)
        aligned = self.aligned(target)
        bad = ((aligned < 0) | (aligned >= num_classes)) & (aligned != self.ignore_index)
        if bool(bad.any()):
            where = torch.nonzero(bad)[0].tolist()
            raise LoadError(
                "CT022",
                f"label out of range in row {where[0] + first_row} (the first row is 0)",
                expected=f"0 to {num_classes - 1} ({counted(num_classes, 'output')}), or the ignored "
                f"{self.ignore_index}",
                received=f"{int(aligned[tuple(where)])}"
                + (f" at position {where[1:]} of the row" if where[1:] else ""),
                remedy="--loss bce-with-logits for one logit and labels 0 and 1, mse for real numbers"
                if num_classes == 1
                else "check the labels (do they start at 1?) and the number of classes of the factory's model",
            )

    def _check_dimensions(self, output: torch.Tensor, target: torch.Tensor) -> None:
        if output.dim() > 2 and target.shape == output.shape[:-1] and output.shape[1] == output.shape[-1]:
            raise LoadError(
                "CT028",
                "cannot tell which dimension of the output holds the classes",
                expected=f"outputs of shape {(len(target), 'classes', *target.shape[1:])} with sizes that tell apart",
                received=f"{tuple(output.shape)}, which reads both ways",
                remedy="--loss masked-lm (classes last), --loss module:function, or one position more or fewer",
            )

    def _check_num_weights(self, num_classes: int) -> None:
        if self.class_weights is not None and len(self.class_weights) != num_classes:
            raise LoadError(
                "CT028",
                "there are not as many class weights as classes",
                expected=f"{counted(num_classes, 'weight')}, one an output",
                received=f"{len(self.class_weights)}",
                remedy="-L class_weights=[1,2,…] with one number a class",
            )


class NLL(CrossEntropy):
    """`-z[y]` on log-probabilities z, as log_softmax gives: linear in the outputs, so its Gauss-Newton matrix is 0."""

    name = "nll"
    is_likelihood = False

    def __init__(self, ignore_index: int = -100, class_weights: Sequence[float] | torch.Tensor | None = None) -> None:
        super().__init__(ignore_index, class_weights)

    def _losses(self, output: torch.Tensor, target: torch.Tensor, reduction: str) -> torch.Tensor:
        output = self._classes_second(output, target)
        return functional.nll_loss(
            output,
            target.long(),
            weight=self._weights_like(output),
            ignore_index=self.ignore_index,
            reduction=reduction,
        )

    def output_hessian_product(self, output: torch.Tensor, target: torch.Tensor, tangent: torch.Tensor) -> torch.Tensor:
        """0."""
        return torch.zeros_like(tangent)

    def check_targets(self, output: torch.Tensor, target: torch.Tensor, first_row: int = 0) -> None:
        """Class indices alone."""
        if target.is_floating_point():
            raise LoadError(
                "CT028",
                "nll cannot use these targets",
                expected="class indices (int64)",
                received=f"{target.dtype} of shape {tuple(target.shape)}",
                remedy="store the targets as int64",
            )
        super().check_targets(output, target, first_row)

    def check_prediction(self, prediction: torch.Tensor) -> None:
        """Logarithms of probabilities are not above 0."""
        if bool((prediction > 1e-3).any()):
            raise LoadError(
                "CT028",
                "the model's outputs are no log-probabilities",
                expected="numbers not above 0, as log_softmax gives",
                received=f"{float(prediction.max()):.4g} among a few samples' outputs",
                remedy="--loss cross-entropy, which takes logits",
            )


def as_weights(values: Sequence[float] | torch.Tensor | None, name: str) -> torch.Tensor | None:
    """Numbers that are finite and not negative, as a float64 vector.

    Raises:
        UsageError: CT003, they are not.
    """
    if values is None:
        return None
    try:
        weights = torch.as_tensor(values, dtype=torch.float64).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        raise _bad_option(name, "numbers, one a class", values) from None
    if weights.dim() != 1 or not len(weights) or not bool((weights.isfinite() & (weights >= 0)).all()):
        raise _bad_option(name, "finite numbers not below 0, one a class", values)
    return weights


def _bad_option(name: str, expected: str, received: object) -> UsageError:
    return UsageError(
        "CT003",
        f"the loss cannot use this {name}",
        expected=expected,
        received=str(received)[:200],
        remedy=f"-L {name}=…",
    )
