"""How the losses of all samples become one number, and targets that the inputs hold themselves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from curvtool.errors import UsageError
from curvtool.problem.data import Data
from curvtool.problem.losses.base import Loss
from curvtool.problem.tree import Tree

REDUCTIONS = ("mean", "sum", "token-mean", "sample-mean")


def reduced(loss: Loss, reduction: str) -> Loss:
    """The loss whose sum over its weight is the reduction (`sum` is left to whoever divides).

    Raises:
        UsageError: CT001, no such reduction; CT003, the loss has no such mean.
    """
    if reduction not in REDUCTIONS:
        raise UsageError(
            "CT001", f"unknown reduction {reduction!r}", expected=", ".join(REDUCTIONS), received=reduction
        )
    if reduction == "token-mean" and not loss.counts_targets:
        raise UsageError(
            "CT003",
            f"the loss {loss.name} counts no tokens",
            expected="cross-entropy, nll, causal-lm or masked-lm",
            received=loss.name,
            remedy="--reduction mean",
        )
    return SampleMean(loss) if reduction == "sample-mean" and not isinstance(loss, SampleMean) else loss


def with_targets(data: Data, loss: Loss | None) -> Data:
    """The data with the targets that the loss reads off the inputs, where they have none of their own."""
    found = loss.targets_from(data.inputs) if loss is not None and data.targets is None else None
    return data if found is None else replace(data, targets=found[0], notes=(*data.notes, found[1]))


class SampleMean(Loss):
    """`(1/N) sum_i (1/w_i) sum_t l_it` over the samples of a weight w_i above 0: long sequences count as short ones.

    Args:
        loss: what is averaged.
    """

    def __init__(self, loss: Loss) -> None:
        self.loss, self.name = loss, loss.name
        self.is_likelihood = loss.is_likelihood

    def _factors(self, target: Any) -> torch.Tensor:
        weights = self.loss.sample_weights(target).double()
        return torch.where(weights > 0, 1 / weights.clamp_min(torch.finfo(torch.float64).tiny), 0)

    def prediction(self, output: Any, key: str | None) -> torch.Tensor:
        """As the loss reads it."""
        return self.loss.prediction(output, key)

    def targets_from(self, inputs: Tree) -> tuple[torch.Tensor, str] | None:
        """As the loss reads them."""
        return self.loss.targets_from(inputs)

    def sum(self, output: torch.Tensor, target: Any) -> torch.Tensor:
        """Sum over samples of their means."""
        return self.terms(output, target).sum()

    def sample_weights(self, target: Any) -> torch.Tensor:
        """1 for a sample that counts."""
        return (self.loss.sample_weights(target) > 0).double()

    def output_hessian_product(self, output: torch.Tensor, target: Any, tangent: torch.Tensor) -> torch.Tensor:
        """The loss's own, each sample divided by its weight."""
        product = self.loss.output_hessian_product(output, target, tangent)
        factors = self._factors(target).to(product)
        return product * factors.view(-1, *[1] * (product.dim() - 1))

    def terms(self, output: torch.Tensor, target: Any) -> torch.Tensor:
        """One a sample: the mean of its own."""
        terms = self.loss.terms(output, target)
        factors = self._factors(target).to(terms)
        return terms.reshape(len(factors), -1).sum(1) * factors

    def check_targets(self, output: torch.Tensor, target: torch.Tensor, first_row: int = 0) -> None:
        """As the loss asks."""
        self.loss.check_targets(output, target, first_row)

    def check_prediction(self, prediction: torch.Tensor) -> None:
        """As the loss asks."""
        self.loss.check_prediction(prediction)
