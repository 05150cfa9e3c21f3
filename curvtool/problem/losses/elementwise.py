"""Losses that are a mean over elements: an output has a target of its own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch.nn import functional

from curvtool.errors import LoadError, UsageError
from curvtool.problem.losses.base import Loss
from curvtool.problem.losses.cross_entropy import as_weights


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

    def sample_weights(self, target: torch.Tensor) -> torch.Tensor:
        """The elements of each sample."""
        return torch.full((len(target),), target.numel() // max(len(target), 1), device=target.device)

    def check_targets(self, output: torch.Tensor, target: torch.Tensor, first_row: int = 0) -> None:
        """One target an output; (n,) and (n, 1) are the same, and nothing is broadcast."""
        if _aligned(output, target) is None:
            raise LoadError(
                "CT028",
                f"the model's output does not fit the targets of {self.name}",
                expected=f"targets of shape {tuple(output.shape)}",
                received=f"targets of shape {tuple(target.shape)}",
                remedy=f"targets of the shape {tuple(output.shape)}, or a model whose output has the shape "
                f"{tuple(target.shape)}; shapes are not broadcast. Where there are several of either, --output-key or "
                "--target-key chooses",
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
    """Binary cross-entropy on logits, `-c y log s(z) - (1-y) log(1-s(z))`, mean over all elements.

    Args:
        pos_weight: the factor c of positive targets, one number or one an output.

    Raises:
        UsageError: CT003, a factor that makes no sense.
    """

    name = "bce-with-logits"

    def __init__(self, pos_weight: float | Sequence[float] | torch.Tensor | None = None) -> None:
        values = [pos_weight] if isinstance(pos_weight, (int, float)) else pos_weight
        self.pos_weight = as_weights(values, "pos_weight")

    @property
    def is_likelihood(self) -> bool:  # type: ignore[override]
        """No with a factor: a drawn target would have another one."""
        return self.pos_weight is None

    def elements(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """`-c y log s(z) - (1-y) log(1-s(z))`."""
        factor = None if self.pos_weight is None else self.pos_weight.to(output)
        return functional.binary_cross_entropy_with_logits(output, target, reduction="none", pos_weight=factor)

    def output_hessian_product(self, output: torch.Tensor, target: torch.Tensor, tangent: torch.Tensor) -> torch.Tensor:
        """(c y + 1 - y) s(z) s(-z) u."""
        product = output.detach().sigmoid() * (-output.detach()).sigmoid() * tangent
        if self.pos_weight is None:
            return product
        return product * (1 + self._target(output, target) * (self.pos_weight.to(output) - 1))

    def check_targets(self, output: torch.Tensor, target: torch.Tensor, first_row: int = 0) -> None:
        """Targets between 0 and 1, one an output."""
        super().check_targets(output, target, first_row)
        if self.pos_weight is not None and len(self.pos_weight) not in {1, output.shape[-1]}:
            raise LoadError(
                "CT028",
                "there are not as many positive weights as outputs",
                expected=f"one, or {output.shape[-1]}",
                received=str(len(self.pos_weight)),
                remedy="-L pos_weight=[…] with one number an output",
            )
        _check_range(target, (target < 0) | (target > 1), "0 to 1 for bce-with-logits", first_row)


class MSE(Elementwise):
    """Squared error, `(z - y)^2`, mean over all elements: minus the log-density of a Gaussian of variance 1/2."""

    name = "mse"

    def elements(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """`(z - y)^2`."""
        return functional.mse_loss(output, target, reduction="none")

    def output_hessian_product(self, output: torch.Tensor, target: torch.Tensor, tangent: torch.Tensor) -> torch.Tensor:
        """2 u."""
        return 2 * tangent


class L1(Elementwise):
    """Absolute error, `|z - y|`, mean over all elements: linear in the outputs, so its Gauss-Newton matrix is 0."""

    name = "l1"
    is_likelihood = False

    def elements(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """`|z - y|`."""
        return functional.l1_loss(output, target, reduction="none")

    def output_hessian_product(self, output: torch.Tensor, target: torch.Tensor, tangent: torch.Tensor) -> torch.Tensor:
        """0."""
        return torch.zeros_like(tangent)


class _Robust(Elementwise):
    """Quadratic up to a distance from the target and linear beyond it."""

    is_likelihood = False

    def __init__(self, distance: float, option: str, curvature: float) -> None:
        if not distance > 0:
            raise UsageError(
                "CT003",
                f"the loss {self.name} cannot use this {option}",
                expected="a number above 0",
                received=str(distance),
                remedy=f"-L {option}=1.0",
            )
        self.distance, self.curvature = distance, curvature

    def output_hessian_product(self, output: torch.Tensor, target: torch.Tensor, tangent: torch.Tensor) -> torch.Tensor:
        """The curvature of the quadratic part times u; 0 beyond it."""
        near = (output.detach() - self._target(output, target)).abs() < self.distance
        return torch.where(near, self.curvature * tangent, 0.0)


class SmoothL1(_Robust):
    """`(z - y)^2 / (2 beta)` where `|z - y| < beta`, `|z - y| - beta/2` elsewhere; mean over all elements."""

    name = "smooth-l1"

    def __init__(self, beta: float = 1.0) -> None:
        super().__init__(beta, "beta", 1 / beta if beta else 0.0)

    def elements(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """As above."""
        return functional.smooth_l1_loss(output, target, reduction="none", beta=self.distance)


class Huber(_Robust):
    """`(z - y)^2 / 2` where `|z - y| <= delta`, `delta (|z - y| - delta/2)` elsewhere; mean over all elements."""

    name = "huber"

    def __init__(self, delta: float = 1.0) -> None:
        super().__init__(delta, "delta", 1.0)

    def elements(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """As above, in operations that forward mode knows too."""
        distance = (output - target).abs()
        return torch.where(
            distance <= self.distance,
            0.5 * (output - target) ** 2,
            self.distance * (distance - 0.5 * self.distance),
        )


class PoissonNLL(Elementwise):
    """Minus the log-likelihood of counts y, `exp(z) - y z`; mean over all elements.

    Args:
        log_input: the outputs are logarithms of rates (else rates: `z - y log(z + eps)`).
        full: add Stirling's approximation of `log y!`, which changes the value alone.
        eps: beside the logarithm of a rate.
    """

    name = "poisson-nll"

    def __init__(self, log_input: bool = True, full: bool = False, eps: float = 1e-8) -> None:
        self.log_input, self.full, self.eps = log_input, full, eps

    @property
    def is_likelihood(self) -> bool:  # type: ignore[override]
        """In its natural parameter, the logarithm of the rate."""
        return self.log_input

    def elements(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """As above."""
        return functional.poisson_nll_loss(
            output, target, log_input=self.log_input, full=self.full, eps=self.eps, reduction="none"
        )

    def output_hessian_product(self, output: torch.Tensor, target: torch.Tensor, tangent: torch.Tensor) -> torch.Tensor:
        """exp(z) u, or y u / (z + eps)^2."""
        if self.log_input:
            return output.detach().exp() * tangent
        return self._target(output, target) / (output.detach() + self.eps) ** 2 * tangent

    def check_targets(self, output: torch.Tensor, target: torch.Tensor, first_row: int = 0) -> None:
        """Counts, not below 0."""
        super().check_targets(output, target, first_row)
        _check_range(target, target < 0, "counts not below 0 for poisson-nll", first_row)


def _check_range(target: torch.Tensor, bad: torch.Tensor, expected: str, first_row: int) -> None:
    if bool(bad.any()):
        row = torch.nonzero(bad)[0].tolist()
        raise LoadError(
            "CT022",
            f"target out of range in row {row[0] + first_row} (the first row is 0)",
            expected=expected,
            received=str(target[tuple(row)].item()),
            remedy="use --loss cross-entropy for class indices, mse for real numbers",
        )
