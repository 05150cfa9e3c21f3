"""The losses that have a name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch

from curvtool.errors import UsageError, suggest
from curvtool.problem.losses.base import Loss
from curvtool.problem.losses.cross_entropy import NLL, CrossEntropy
from curvtool.problem.losses.elementwise import L1, MSE, BCEWithLogits, Huber, PoissonNLL, SmoothL1
from curvtool.problem.losses.gaussian_nll import GaussianNLL
from curvtool.problem.losses.language import CausalLM, MaskedLM
from curvtool.problem.losses.of_callable import CallableLoss
from curvtool.problem.losses.of_model import ModelLoss

_BY_NAME: dict[str, Callable[..., Loss]] = {
    kind.name: kind
    for kind in (
        CrossEntropy,
        BCEWithLogits,
        MSE,
        L1,
        SmoothL1,
        Huber,
        NLL,
        PoissonNLL,
        GaussianNLL,
        CausalLM,
        MaskedLM,
        ModelLoss,
    )
}
LOSS_NAMES = tuple(_BY_NAME)


def options_of(name: str) -> tuple[str, ...]:
    """The names of a loss's options; none for an unknown loss."""
    kind = _BY_NAME.get(_canonical(name))
    return tuple(inspect.signature(kind).parameters) if kind is not None else ()


def get_loss(name: str | Loss | Callable[..., torch.Tensor], **options: Any) -> Loss:
    """The loss of a name (one of `LOSS_NAMES`) with its options, a `Loss`, or a callable `loss(output, target)`.

    Raises:
        UsageError: CT003, unknown name, or an option that the loss does not have or cannot use.
    """
    if isinstance(name, Loss):
        return name
    if callable(name):
        return CallableLoss(name, getattr(name, "__qualname__", type(name).__name__))
    canonical = _canonical(name)
    if canonical not in _BY_NAME:
        raise UsageError(
            "CT001",
            f"unknown loss {name!r}",
            expected=f"{', '.join(LOSS_NAMES)}, or package.module:callable",
            received=name,
            remedy=suggest(canonical, LOSS_NAMES),
        )
    known = options_of(canonical)
    unknown = next((option for option in options if option not in known), None)
    if unknown is not None:
        raise UsageError(
            "CT003",
            f"the loss {canonical} has no option {unknown!r}",
            expected=", ".join(known) or "no options",
            received=unknown,
            remedy=suggest(unknown, known) if known else "leave it out",
        )
    try:
        return _BY_NAME[canonical](**options)
    except TypeError as error:
        raise UsageError(
            "CT003",
            f"the loss {canonical} cannot use these options",
            expected="numbers",
            received=f"{', '.join(f'{k}={v!r}' for k, v in options.items())}: {error}",
            remedy="-L name=value, the value as JSON",
        ) from None


def _canonical(name: str) -> str:
    return name.strip().lower().replace("_", "-")
