"""Which parameters take part: those that require a gradient, filtered by shell patterns on their names."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

import torch
from torch import nn

from curvtool.errors import LoadError, UsageError, suggest
from curvtool.words import counted


def select_parameters(
    model: nn.Module, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> dict[str, torch.Tensor]:
    """Named parameters that require a gradient, match `include` (all if empty) and do not match `exclude`.

    A tied parameter appears once, under its first name. Patterns are shell globs on the module's own parameter
    names, as `layer3.*` or `*.weight`.

    Raises:
        UsageError: CT001, a pattern that matches no parameter.
        LoadError: CT027, no trainable parameter is left.
    """
    names = [name for name, _ in model.named_parameters()]
    for pattern in (*include, *exclude):
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UsageError(
                "CT001",
                f"no parameter matches {pattern!r}",
                expected="a shell pattern that matches at least one parameter's name",
                received=pattern,
                remedy=suggest(pattern, names or ["(the model has no parameters)"]),
            )
    chosen: dict[str, torch.Tensor] = {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
        and (not include or any(fnmatchcase(name, pattern) for pattern in include))
        and not any(fnmatchcase(name, pattern) for pattern in exclude)
    }
    if not chosen:
        frozen = sum(not p.requires_grad for p in model.parameters())
        raise LoadError(
            "CT027",
            "no trainable parameter is left",
            expected="at least one parameter with requires_grad=True",
            received=f"{counted(len(names), 'parameter')}, {frozen} of them frozen, after the filters none",
            remedy="unfreeze the model in the factory (model.requires_grad_(True)), or widen --params/--exclude",
        )
    return chosen
