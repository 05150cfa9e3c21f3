"""Which loss a model was trained with, where the user names none."""

from __future__ import annotations

import torch
from torch import nn

from curvtool.problem.data import Data

_BY_CLASS = (("ForCausalLM", "causal-lm"), ("LMHeadModel", "causal-lm"), ("ForMaskedLM", "masked-lm"))
_LOOKED_AT = 64


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


def guess_loss(model: nn.Module, data: Data) -> tuple[str, str]:
    """The name of a loss and the reason, from the model's class and the targets' type."""
    found = _named(model)
    if found is not None:
        return found[0], f"the model is a {found[1]}"
    targets = data.targets
    if isinstance(targets, torch.Tensor) and targets.is_floating_point():
        some = targets[:_LOOKED_AT].double()
        sums = some.sum(1) if some.dim() == 2 and some.shape[1] > 1 else None
        if sums is not None and bool((some >= 0).all()) and bool(((sums - 1).abs() < 1e-3).all()):
            return "cross-entropy", "the targets are probabilities"
        if bool(((some == 0) | (some == 1)).all()) and bool((some == 1).any()):
            return "bce-with-logits", "the targets are 0 and 1"
        return "mse", "the targets are real numbers"
    if isinstance(targets, torch.Tensor) and targets.dtype == torch.bool:
        return "bce-with-logits", "the targets are true or false"
    return "cross-entropy", "the targets are class indices" if targets is not None else "the usual one"
