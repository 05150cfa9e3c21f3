"""The function mode under which a model runs with rewritten operations; its module is never touched."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from curvtool.problem.rewrites.activation import gelu, silu
from curvtool.problem.rewrites.attention import attention
from curvtool.problem.rewrites.batch_norm import batch_norm
from curvtool.problem.rewrites.convolution import convolve, convolve_transposed
from curvtool.problem.rewrites.layer_norm import layer_norm
from curvtool.vocabulary import Form

FORMS: tuple[Form, ...] = get_args(Form)


def _batch_norm(
    input: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> torch.Tensor:
    if training or running_mean is None or running_var is None:
        return functional.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    return batch_norm(input, running_mean, running_var, weight, bias, eps)


def _renamed(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """The rewrites' positional arguments are torch's; `input` is its name for the first."""

    def call(*args: Any, **kwargs: Any) -> torch.Tensor:
        if "input" in kwargs:
            args = (kwargs.pop("input"), *args)
        return function(*args, **kwargs)

    return call


REWRITES: dict[Callable[..., Any], Callable[..., torch.Tensor]] = {
    functional.conv1d: _renamed(partial(convolve, 1)),
    functional.conv2d: _renamed(partial(convolve, 2)),
    functional.conv3d: _renamed(partial(convolve, 3)),
    functional.conv_transpose1d: _renamed(partial(convolve_transposed, 1)),
    functional.conv_transpose2d: _renamed(partial(convolve_transposed, 2)),
    functional.conv_transpose3d: _renamed(partial(convolve_transposed, 3)),
    functional.batch_norm: _batch_norm,
    functional.layer_norm: layer_norm,
    functional.gelu: _renamed(gelu),
    functional.silu: _renamed(silu),
    functional.scaled_dot_product_attention: attention,
}


_LAYOUTS: dict[Callable[..., Any], tuple[int, torch.memory_format]] = {
    functional.conv2d: (4, torch.channels_last),
    functional.conv_transpose2d: (4, torch.channels_last),
    functional.conv3d: (5, torch.channels_last_3d),
    functional.conv_transpose3d: (5, torch.channels_last_3d),
}


def _laid(value: Any, layout: tuple[int, torch.memory_format]) -> Any:
    """A tensor of so many dimensions with its channels innermost; anything else as it is."""
    if isinstance(value, torch.Tensor) and value.dim() == layout[0]:
        return value.contiguous(memory_format=layout[1])
    return value


class Rewriting(TorchFunctionMode):
    """Calls the rewrites in place of the functions they stand for.

    Args:
        channels_last: convolutions of images and volumes run with the channels as the innermost dimension, and what
            comes out of them stays so.

    Attributes:
        num_calls: how often a rewrite was called.
        num_images: how often for a convolution that can have its channels last.
    """

    def __init__(self, channels_last: bool = False) -> None:
        super().__init__()
        self.channels_last = channels_last
        self.num_calls = self.num_images = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """`func` or its rewrite."""
        rewrite = REWRITES.get(func)
        if rewrite is None:
            return func(*args, **(kwargs or {}))
        self.num_calls += 1
        layout = _LAYOUTS.get(func)
        if layout is not None:
            self.num_images += 1
            if self.channels_last:
                args = tuple(_laid(value, layout) for value in args)
                kwargs = {name: _laid(value, layout) for name, value in (kwargs or {}).items()}
        return rewrite(*args, **(kwargs or {}))
