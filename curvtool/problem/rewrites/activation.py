"""GELU and SiLU, whose second derivatives torch composes of a dozen elementwise operations at every product.

    y = f(x)    gx = gy f'(x)    d/dgy = v f'(x)    d/dx = v gy f''(x)

f' is torch's own fused kernel. gy f''(x) does not depend on v: it is computed once with the gradient, and every further
product multiplies by it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.autograd import Function, forward_ad

_SCALE, _CUBIC = math.sqrt(2 / math.pi), 0.044715  # Hendrycks & Gimpel 2016, as torch has them


@dataclass(frozen=True)
class _Curve:
    """f; (g, x) -> g f'(x); f''."""

    value: Callable[[torch.Tensor], torch.Tensor]
    slope: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    bend: Callable[[torch.Tensor], torch.Tensor]


def _gelu_bend(x: torch.Tensor) -> torch.Tensor:
    """With the normal density p: (2 - x^2) p(x)."""
    square = x * x
    return (2 - square) * torch.exp(-square / 2) / math.sqrt(2 * math.pi)


def _gelu_tanh_bend(x: torch.Tensor) -> torch.Tensor:
    """f = x (1 + tanh u) / 2 with u = s (x + c x^3)."""
    first, second = _SCALE * (1 + 3 * _CUBIC * x * x), 6 * _SCALE * _CUBIC * x
    t = torch.tanh(_SCALE * (x + _CUBIC * x**3))
    return (1 - t * t) * (first + x * (second / 2 - t * first * first))


def _silu_bend(x: torch.Tensor) -> torch.Tensor:
    s = torch.sigmoid(x)
    return s * (1 - s) * (2 + x * (1 - 2 * s))


def _gelu_slope(g: torch.Tensor, x: torch.Tensor, approximate: str) -> torch.Tensor:
    found: torch.Tensor = torch.ops.aten.gelu_backward.default(g, x, approximate=approximate)
    return found


def _silu_slope(g: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = torch.ops.aten.silu_backward.default(g, x)
    return found


_GELUS = {
    kind: _Curve(partial(torch.nn.functional.gelu, approximate=kind), partial(_gelu_slope, approximate=kind), bend)
    for kind, bend in (("none", _gelu_bend), ("tanh", _gelu_tanh_bend))
}
_SILU = _Curve(torch.nn.functional.silu, _silu_slope, _silu_bend)


class _Activation(Function):
    """y = f(x)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: torch.Tensor, curve: _Curve) -> torch.Tensor:
        return curve.value(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, _Curve], output: torch.Tensor) -> None:
        x, ctx.curve = inputs
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)

    @staticmethod
    def backward(ctx: Any, gy: torch.Tensor) -> tuple[torch.Tensor, None]:
        (x,) = ctx.saved_tensors
        return _slope(gy, x, ctx.curve), None

    @staticmethod
    def jvp(ctx: Any, x_t: torch.Tensor, _: None) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        with forward_ad._set_fwd_grad_enabled(False):  # what was saved carries the tangent too
            slope: torch.Tensor = ctx.curve.slope(x_t, x)
        return slope


class _Slope(Function):
    """gx = gy f'(x); `bent`, gy f''(x), is given along for the products to come and is no variable."""

    generate_vmap_rule = True

    @staticmethod
    def forward(gy: torch.Tensor, x: torch.Tensor, bent: torch.Tensor, curve: _Curve) -> torch.Tensor:
        return curve.slope(gy, x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor, _Curve], output: Any) -> None:
        gy, x, bent, ctx.curve = inputs
        ctx.save_for_backward(gy, x, bent)
        ctx.save_for_forward(gy, x, bent)

    @staticmethod
    def backward(ctx: Any, v: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None, None]:
        gy, x, bent = ctx.saved_tensors
        d_gy = d_x = None
        if ctx.needs_input_grad[0]:
            d_gy = _slope(v, x, ctx.curve)
        if ctx.needs_input_grad[1]:
            # a derivative of this one needs how it depends on gy and x
            d_x = v * (gy * ctx.curve.bend(x) if torch.is_grad_enabled() else bent)
        return d_gy, d_x, None, None

    @staticmethod
    def jvp(ctx: Any, gy_t: torch.Tensor | None, x_t: torch.Tensor | None, *_: None) -> torch.Tensor:
        gy, x, bent = ctx.saved_tensors
        with forward_ad._set_fwd_grad_enabled(False):
            found = torch.zeros_like(gy) if gy_t is None else ctx.curve.slope(gy_t, x)
            return found if x_t is None else found + x_t * bent


def _slope(gy: torch.Tensor, x: torch.Tensor, curve: _Curve) -> torch.Tensor:
    """gy f'(x); where nothing differentiates it again, the kernel alone."""
    if not torch.is_grad_enabled() and forward_ad._current_level < 0:
        return curve.slope(gy, x)
    with torch.no_grad(), forward_ad._set_fwd_grad_enabled(False):
        bent = gy * curve.bend(x)
    found: torch.Tensor = _Slope.apply(gy, x, bent, curve)
    return found


def gelu(x: torch.Tensor, approximate: str = "none") -> torch.Tensor:
    """`torch.nn.functional.gelu`."""
    found: torch.Tensor = _Activation.apply(x, _GELUS[approximate])
    return found


def silu(x: torch.Tensor, inplace: bool = False) -> torch.Tensor:
    """`torch.nn.functional.silu`; torch's own where it is to overwrite its input."""
    if inplace:
        return torch.nn.functional.silu(x, inplace=True)
    found: torch.Tensor = _Activation.apply(x, _SILU)
    return found
