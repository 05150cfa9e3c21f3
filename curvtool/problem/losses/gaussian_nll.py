"""The Gaussian negative log-likelihood of a model that gives a mean and a variance."""

from __future__ import annotations

from typing import Any

import torch

from curvtool.errors import LoadError
from curvtool.problem.losses.base import Loss
from curvtool.problem.tree import named_tensors


class GaussianNLL(Loss):
    """`(log v + (y - m)^2 / v) / 2`, mean over the elements of y; m and v the two halves of the last output dimension.

    A model that returns a pair `(m, v)` is read likewise. A variance below `eps` counts as `eps` and has no derivative
    there. Its output-space Hessian is indefinite, and the outputs are no natural parameters: no Fisher information.

    Args:
        log_variance: the second half is log v.
        eps: the least variance.
    """

    name = "gaussian-nll"

    def __init__(self, log_variance: bool = False, eps: float = 1e-6) -> None:
        self.log_variance, self.eps = log_variance, eps

    def prediction(self, output: Any, key: str | None) -> torch.Tensor:
        """Mean and variance in one tensor, (n, ..., 2 K)."""
        if key is None and not isinstance(output, torch.Tensor):
            pair = [tensor for _, tensor in named_tensors(output)][:2]
            if len(pair) == 2 and pair[0].dim() == pair[1].dim():
                mean, variance = (part.unsqueeze(-1) if part.dim() == 1 else part for part in pair)
                return torch.cat([mean, variance.expand_as(mean)], dim=-1)
        return super().prediction(output, key)

    def _elements(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        mean, second = output.chunk(2, dim=-1)
        difference = (target.reshape(mean.shape).to(mean) - mean) ** 2
        if self.log_variance:
            return 0.5 * (second + difference * (-second).exp())
        variance = second.clamp_min(self.eps)
        return 0.5 * (variance.log() + difference / variance)

    def sum(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Sum over samples and elements."""
        return self._elements(output, target).sum()

    def terms(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """One a sample, the sum over its elements."""
        return self._elements(output, target).flatten(1).sum(1)

    def sample_weights(self, target: torch.Tensor) -> torch.Tensor:
        """The elements of each sample's target."""
        return torch.full((len(target),), target.numel() // max(len(target), 1), device=target.device)

    def check_targets(self, output: torch.Tensor, target: torch.Tensor, first_row: int = 0) -> None:
        """Half as many targets as outputs."""
        wanted = (*output.shape[:-1], output.shape[-1] // 2)
        fits = tuple(target.shape) == wanted or (wanted[-1] == 1 and tuple(target.shape) == wanted[:-1])
        if output.dim() < 2 or output.shape[-1] % 2 or not fits:
            raise LoadError(
                "CT028",
                "the model's output does not fit the targets of gaussian-nll",
                expected=f"targets of shape {wanted}, one for each mean and variance of an output "
                f"of shape {tuple(output.shape)}",
                received=f"targets of shape {tuple(target.shape)}",
                remedy="return (mean, variance), or both in the last dimension",
            )

    def check_prediction(self, prediction: torch.Tensor) -> None:
        """Variances are above 0."""
        if not self.log_variance and bool((prediction.chunk(2, dim=-1)[1] <= 0).any()):
            raise LoadError(
                "CT028",
                "the model's variances are not above 0",
                expected="the variance in the second half of the outputs",
                received=f"{float(prediction.chunk(2, dim=-1)[1].min()):.4g} among a few samples",
                remedy="-L log_variance=true where it is the logarithm",
            )
