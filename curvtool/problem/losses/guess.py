"""Which loss a model was trained with, where the user names none."""

from __future__ import annotations

import torch
from torch import nn

from curvtool.problem.data import Data

_BY_CLASS = (("ForCausalLM", "causal-lm"), ("LMHeadModel", "causal-lm"), ("ForMaskedLM", "masked-lm"))
_LOOKED_AT = 64


def guess_loss(model: nn.Module, data: Data) -> tuple[str, str]:
    """The name of a loss and the reason, from the model's class and the targets' type."""
    chain = [type(module).__name__ for module in (model, *model.children())][:2]  # itself, or within a wrapper
    for ending, name in _BY_CLASS:
        found = next((kind for kind in chain if kind.endswith(ending)), None)
        if found is not None:
            return name, f"the model is a {found}"
    targets = data.targets
    if isinstance(targets, torch.Tensor) and targets.is_floating_point():
        some = targets[:_LOOKED_AT].double()
        sums = some.sum(1) if some.dim() == 2 and some.shape[1] > 1 else None
        if sums is not None and bool((some >= 0).all()) and bool(((sums - 1).abs() < 1e-3).all()):
            return "cross-entropy", "the targets are probabilities"
        return "mse", "the targets are real numbers"
    if isinstance(targets, torch.Tensor) and targets.dtype == torch.bool:
        return "bce-with-logits", "the targets are true or false"
    return "cross-entropy", "the targets are class indices" if targets is not None else "the usual one"
