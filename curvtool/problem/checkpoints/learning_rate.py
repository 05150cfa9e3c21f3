"""The learning rate that a training checkpoint's optimizer had."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from curvtool.errors import LoadError
from curvtool.problem.checkpoints.read import read

_OPTIMIZERS = ("optimizer", "optimizer_state_dict", "optimizer_states", "optimizers", "optim", "opt")
_OUTER = ("app", "state", "checkpoint")


def learning_rate_of(path: Path, *, trust: bool = False) -> float:
    """`lr` of the parameter groups of the optimizer's state dict, in torch's, Lightning's and timm's places.

    Args:
        path: the checkpoint.
        trust: run what is in the file.

    Raises:
        LoadError: CT017, it holds no optimizer's state, or one whose groups have several rates.
    """
    content = read(path, trust=trust)
    rates = sorted(set(_rates(content)))
    if len(rates) == 1:
        return rates[0]
    raise LoadError(
        "CT017",
        f"no single learning rate in {path}",
        expected=f"an optimizer's state dict under {', '.join(_OPTIMIZERS[:3])}, all groups with the same rate",
        received=f"rates {', '.join(f'{rate:g}' for rate in rates)}" if rates else "no optimizer's state",
        remedy=f"--lr {rates[-1]:g}" if rates else "give the rate that the model was trained with: --lr 0.1",
    )


def _rates(content: Any) -> Iterator[float]:
    if not isinstance(content, Mapping):
        return
    for key in _OUTER:
        yield from _rates(content.get(key))
    for key in _OPTIMIZERS:
        state = content.get(key)
        for each in state if isinstance(state, (list, tuple)) else [state]:
            groups = each.get("param_groups") if isinstance(each, Mapping) else None
            for group in groups if isinstance(groups, (list, tuple)) else []:
                rate = group.get("lr") if isinstance(group, Mapping) else None
                if rate is not None and float(rate) > 0:
                    yield float(rate)
