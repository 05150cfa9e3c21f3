"""Which loss a model was trained with, where the user names none."""

from __future__ import annotations

import torch
from torch import nn

from curvtool.problem.data import Data

_BY_CLASS = (("ForCausalLM", "causal-lm"), ("LMHeadModel", "causal-lm"), ("ForMaskedLM", "masked-lm"))


def _named(model: nn.Module) -> tuple[str, str] | None:
    inner = getattr(getattr(model, "base_model", None), "model", None)  # an adapter's
    for kind in (type(model).__name__, type(inner).__name__):
        for ending, name in _BY_CLASS:
            if kind.endswith(ending):
                return name, kind
    return None


def guess_by_class(model: nn.Module) -> str | None:
    """The loss that the name of the model's class tells; None where it tells none."""
    found = _named(model)
    return found[0] if found else None


def _are_probabilities(targets: torch.Tensor) -> bool:
    """Rows of several numbers not below 0 that add up to 1."""
    if targets.dim() != 2 or targets.shape[1] < 2:
        return False
    return bool((targets >= 0).all()) and bool(((targets.sum(1) - 1).abs() < 1e-3).all())


def guess_loss(model: nn.Module, data: Data) -> tuple[str, str]:
    """The name of a loss and the reason, from the model's class and all targets."""
    found = _named(model)
    if found is not None:
        return found[0], f"the model is a {found[1]}"
    targets = data.targets
    if isinstance(targets, torch.Tensor) and targets.is_floating_point():
        rows = data.pieces()
        if all(_are_probabilities(targets[some.start : some.stop].double()) for some in rows):
            return "cross-entropy", "the targets are probabilities"
        kinds = [targets[some.start : some.stop] for some in rows]
        if all(bool(((some == 0) | (some == 1)).all()) for some in kinds) and any(bool((s == 1).any()) for s in kinds):
            return "bce-with-logits", "the targets are 0 and 1"
        return "mse", "the targets are real numbers"
    if isinstance(targets, torch.Tensor) and targets.dtype == torch.bool:
        return "bce-with-logits", "the targets are true or false"
    return "cross-entropy", "the targets are class indices" if targets is not None else "the usual one"
