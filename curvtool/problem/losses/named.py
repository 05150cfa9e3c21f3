"""The losses that have a name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from curvtool.errors import UsageError, suggest
from curvtool.problem.losses.base import Loss
from curvtool.problem.losses.cross_entropy import CrossEntropy
from curvtool.problem.losses.elementwise import MSE, BCEWithLogits
from curvtool.problem.losses.of_callable import CallableLoss

_BY_NAME: dict[str, type[Loss]] = {
    "cross-entropy": CrossEntropy,
    "bce-with-logits": BCEWithLogits,
    "mse": MSE,
}
LOSS_NAMES = tuple(_BY_NAME)


def get_loss(name: str | Loss | Callable[..., torch.Tensor], **options: Any) -> Loss:
    """The loss of a name (`cross-entropy`, `bce-with-logits`, `mse`), a `Loss`, or a callable `loss(output, target)`.

    Raises:
        UsageError: CT003, unknown name or an option that the loss does not have.
    """
    if isinstance(name, Loss):
        return name
    if callable(name):
        return CallableLoss(name, getattr(name, "__qualname__", type(name).__name__))
    canonical = name.strip().lower().replace("_", "-")
    if canonical not in _BY_NAME:
        raise UsageError(
            "CT003",
            f"unknown loss {name!r}",
            expected=f"{', '.join(LOSS_NAMES)}, or package.module:callable",
            received=name,
            remedy=suggest(canonical, LOSS_NAMES),
        )
    try:
        return _BY_NAME[canonical](**options)
    except TypeError as error:
        raise UsageError(
            "CT003",
            f"the loss {canonical} does not take these options",
            received=str(error),
            remedy="leave them out",
        ) from None
