"""Where the weights stand in what a checkpoint holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from curvtool.errors import LoadError
from curvtool.problem.checkpoints.distributed import LazyTensor

MODEL_KEYS = ("state_dict", "model_state_dict", "model", "module", "net", "network", "weights", "params")
_OUTER_KEYS = ("app", "state", "checkpoint")  # around all of it
_EMA_KEYS = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")

_TENSORS = (torch.Tensor, LazyTensor)


def state_dict(content: Any, weights: str = "auto") -> tuple[dict[str, Any], str]:
    """The tensors by name in what `read` returned, and the key they stood under (empty: at the top).

    Args:
        content: a state dict, or a training checkpoint that holds one.
        weights: `model`, `ema`, or `auto` (the model's own, EMA weights where there are no others).

    Raises:
        LoadError: CT011, no tensors by name are found; CT017, the weights asked for are not in it.
    """
    if not isinstance(content, Mapping):
        raise LoadError(
            "CT011",
            "the checkpoint holds no state dict",
            expected="tensors by name",
            received=type(content).__name__,
            remedy="torch.save(model.state_dict(), path)",
        )
    for outer in _OUTER_KEYS:
        if isinstance(content.get(outer), Mapping) and not {*MODEL_KEYS, *_EMA_KEYS} & {*content}:
            content = content[outer]
    candidates = {"": content} if _is_state_dict(content) else {}
    ema: dict[str, Any] = {}
    for key in (*MODEL_KEYS, *_EMA_KEYS):
        inner = content.get(key)
        if isinstance(inner, nn.Module):
            inner = inner.state_dict()
        if isinstance(inner, Mapping) and _is_state_dict(inner):
            (ema if key in _EMA_KEYS else candidates)[key] = inner
    wanted = {"model": candidates, "ema": ema, "auto": candidates or ema}[weights]
    if not wanted:
        held = ", ".join(str(k) for k in list(content)[:8]) or "nothing"
        if candidates or ema:
            raise LoadError(
                "CT017",
                f"the checkpoint has no {weights} weights",
                expected=f"--weights {weights}",
                received=f"weights under {', '.join(map(repr, candidates or ema))}",
                remedy=f"--weights {'ema' if ema else 'model'}",
            )
        raise LoadError(
            "CT011",
            "no weights are found in the checkpoint",
            expected=f"tensors by name, at the top or under {', '.join(MODEL_KEYS[:4])}",
            received=f"a dictionary with {held}",
            remedy="torch.save(model.state_dict(), path)",
        )
    key, found = next(iter(wanted.items()))
    return {str(name): tensor for name, tensor in found.items() if isinstance(tensor, _TENSORS)}, key


def _is_state_dict(content: Mapping[Any, Any]) -> bool:
    values = list(content.values())
    return (
        bool(values)
        and all(isinstance(key, str) for key in content)
        and (sum(isinstance(value, _TENSORS) for value in values) * 2 > len(values))
    )
