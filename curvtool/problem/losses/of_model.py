"""The loss that a model computes itself from its inputs and labels."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from curvtool.errors import LoadError
from curvtool.problem.losses.base import Loss, tolerance_of
from curvtool.problem.tree import Tree, named_tensors

_KEYWORDS = ("labels", "targets", "target", "y")
Batches = Sequence[tuple[list[int], torch.Tensor]]  # the rows of each, and the model's loss of them
Counting = Callable[["ModelLoss", torch.Tensor], torch.Tensor]


def _per_sample(loss: ModelLoss, target: torch.Tensor) -> torch.Tensor:
    return torch.ones(len(target), device=target.device)


def _per_target(loss: ModelLoss, target: torch.Tensor) -> torch.Tensor:
    return (target != loss.ignore_index).reshape(len(target), -1).sum(1)


def _per_shifted(loss: ModelLoss, target: torch.Tensor) -> torch.Tensor:
    return (target[:, 1:] != loss.ignore_index).reshape(len(target), -1).sum(1)


_SHIFTED = "counted targets but the first of each sample"
_COUNTINGS: dict[str, Counting] = {
    "counted targets": _per_target,
    _SHIFTED: _per_shifted,
    "samples": _per_sample,
}


class ModelLoss(Loss):
    """A model's own loss: the scalar in its output, a mean over what it counts, or one number a sample.

    The labels are passed to the model, by name where its forward has `labels` or `targets`, else after the inputs. What
    the mean counts (targets other than `ignore_index`, those but the first of each sample, or samples) is found out by
    comparing a batch with its samples one by one: `settle`. The output is a black box, so that there is no
    Gauss-Newton matrix.

    Args:
        ignore_index: the label that does not count.
    """

    name = "model"

    def __init__(self, ignore_index: int = -100) -> None:
        self.ignore_index = ignore_index
        self.counting = "samples"

    def with_targets(self, model: nn.Module, inputs: Tree, targets: Tree) -> Tree:
        """What the model is called with: its inputs and the labels."""
        try:
            names = list(inspect.signature(model.forward).parameters)
        except (TypeError, ValueError):
            names = []
        keyword = next((name for name in _KEYWORDS if name in names), None)
        if isinstance(inputs, Mapping):
            return {**inputs, keyword or "labels": targets}
        if isinstance(inputs, tuple):
            return (*inputs, targets)
        if keyword is not None and len(names) > 1 and names[1] != keyword:  # other arguments stand between
            return {names[0]: inputs, keyword: targets}
        return (inputs, targets)

    def prediction(self, output: Any, key: str | None) -> torch.Tensor:
        """The loss in the model's output, as one number a batch or a sample.

        Raises:
            LoadError: CT028, there is none.
        """
        entries = dict(output.items()) if hasattr(output, "items") else None
        if entries is None:
            entries = dict(named_tensors(output))
        found = entries.get(key) if key is not None else entries.get("loss")
        if not isinstance(found, torch.Tensor):
            scalars = [value for value in entries.values() if isinstance(value, torch.Tensor) and value.dim() == 0]
            found = scalars[0] if len(scalars) == 1 and key is None else None
        if found is None and key is None and isinstance(output, torch.Tensor) and output.dim() == 1:
            found = output
        if found is None or found.dim() > 1:
            held = ", ".join(f"{name or 'a tensor'} {tuple(value.shape)}" for name, value in named_tensors(output))
            raise LoadError(
                "CT028",
                "the model returns no loss",
                expected="a scalar, alone, under 'loss' or as the one scalar of a tuple, when it is given the labels",
                received=held or type(output).__name__,
                remedy="--output-key NAME, or name the loss: --loss cross-entropy",
            )
        return found.reshape(-1)

    def sum(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The sum of one number a sample, or each batch's mean times what it counts."""
        if len(output) == len(target) and len(output) > 1:
            return output.sum()
        parts = target.chunk(len(output))  # batches that were mapped over lie one after the other
        weights = [self.weight(part) for part in parts]
        # a mean over nothing is not a number, and neither is its gradient: such a batch is left out whole
        counted = [value * weight for value, weight in zip(output, weights, strict=True) if weight > 0]
        return torch.stack(counted).sum() if counted else output.new_zeros(())

    def sample_weights(self, target: torch.Tensor) -> torch.Tensor:
        """By what `settle` found that the model counts."""
        return _COUNTINGS[self.counting](self, target)

    def settle(self, targets: torch.Tensor, means: Sequence[Batches]) -> None:
        """Finds what the model's mean counts: the count by which the whole does not depend on how it is cut.

        Args:
            targets: of all samples.
            means: for each of several ways to cut the data into batches, their rows and the model's loss of them.

        Raises:
            LoadError: CT028, by no count is a batch's loss the mean of its samples'.
        """
        if all(len(value) == len(rows) for rows, value in means[0]) and any(len(rows) > 1 for rows, _ in means[0]):
            return
        gaps: dict[str, float] = {}
        for name, counting in _COUNTINGS.items():
            if name == _SHIFTED and targets.dim() < 2:
                continue
            totals = [self._total(targets, batches, counting) for batches in means]
            size = max(abs(total) for total in totals)
            gap = max(totals) - min(totals)
            gaps[name] = 0.0 if gap == 0 else gap / size if size > 0 and math.isfinite(gap) else math.inf
        best = min(gaps, key=lambda name: gaps[name])
        # batches that differ by rounding alone tell the counts apart no better than that
        if gaps[best] <= tolerance_of(means[0][0][1].dtype):
            self.counting = best
            return
        raise LoadError(
            "CT028",
            "the model's loss of a batch is no mean of its samples' losses",
            expected=f"a mean over {', '.join(_COUNTINGS)}",
            received=f"the loss of all data depends on how they are cut into batches, by {gaps[best]:.1e} at least",
            remedy="let it return one number a sample, or name the loss: --loss causal-lm, --loss cross-entropy",
        )

    def _total(
        self, targets: torch.Tensor, batches: Sequence[tuple[list[int], torch.Tensor]], counting: Counting
    ) -> float:
        total = weight = 0.0
        for rows, value in batches:
            counts = float(counting(self, targets[rows]).sum())
            if counts > 0:  # a mean over nothing is not a number
                total += counts * float(value[0])
                weight += counts
        return total / weight if weight > 0 else math.nan
