"""Layer norm, whose second derivative torch composes of some thirty elementwise operations at every product.

For a row x of n numbers with r = (var x + eps)^(-1/2), c = r (x - mean x) and P u = r (u - mean u - c mean(c u)), which
is the symmetric derivative of c by x:

    y = w c + b    gx = P(w gy)    gw = sum gy c    gb = sum gy

and with cotangents u, v, s of these three, q = mean(c u), m = mean(c w gy):

    d/dgy = w P(u) + v c + s    d/dw = sum gy P(u)
    d/dx = P(v gy - r m u - r q w gy) - r c mean(u gx)

P is a fused kernel of torch's; c, m and gx do not depend on the cotangents and are computed once with the gradient.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.autograd import Function, forward_ad


class _Row(NamedTuple):
    """What a row's numbers give: mean x and r, shape (*, 1), and c."""

    mean: torch.Tensor
    scale: torch.Tensor
    centred: torch.Tensor


def _row_of(x: torch.Tensor, eps: float) -> _Row:
    c, mean, scale = torch.native_layer_norm(x, x.shape[-1:], None, None, eps)
    return _Row(mean, scale, c)


def _projected(u: torch.Tensor, x: torch.Tensor, row: _Row) -> torch.Tensor:
    """P u."""
    found: torch.Tensor = torch.ops.aten.native_layer_norm_backward.default(
        u, x, x.shape[-1:], row.mean, row.scale, None, None, [True, False, False]
    )[0]
    return found


def _mean(t: torch.Tensor) -> torch.Tensor:
    return t.mean(-1, keepdim=True)


def _summed(t: torch.Tensor) -> torch.Tensor:
    """Over the rows: shape (n,)."""
    return t.reshape(-1, t.shape[-1]).sum(0)


class _LayerNorm(Function):
    """y = w c + b."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor, eps: float) -> torch.Tensor:
        return torch.native_layer_norm(x, x.shape[-1:], w, b, eps)[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor, float], output: Any) -> None:
        x, w, _, ctx.eps = inputs
        ctx.save_for_backward(x, w)
        ctx.save_for_forward(x, w)

    @staticmethod
    def backward(ctx: Any, gy: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None]:
        x, w = ctx.saved_tensors
        return (*_backward(gy, x, w, ctx.eps), None)

    @staticmethod
    def jvp(ctx: Any, x_t: Any, w_t: Any, b_t: Any, _: None) -> torch.Tensor:
        x, w = ctx.saved_tensors
        with forward_ad._set_fwd_grad_enabled(False):  # what was saved carries the tangents too
            row = _row_of(x, ctx.eps)
            found = torch.zeros_like(x) if x_t is None else w * _projected(x_t, x, row)
            found = found if w_t is None else found + w_t * row.centred
            return found if b_t is None else found + b_t


class _Backward(Function):
    """gx, gw, gb; mean, r, c and m are given along for the products to come and are no variables."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        gy: torch.Tensor,
        x: torch.Tensor,
        w: torch.Tensor,
        mean: torch.Tensor,
        scale: torch.Tensor,
        c: torch.Tensor,
        m: torch.Tensor,
        eps: float,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return _projected(w * gy, x, _Row(mean, scale, c)), _summed(gy * c), _summed(gy)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
        *tensors, ctx.eps = inputs
        ctx.save_for_backward(*tensors, output[0])
        ctx.save_for_forward(*tensors, output[0])

    @staticmethod
    def backward(ctx: Any, u: torch.Tensor, v: torch.Tensor, s: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gy, x, w, mean, scale, c, m, gx = ctx.saved_tensors
        if torch.is_grad_enabled():  # a derivative of this one needs how all depends on x
            return (*_pulled_back(gy, x, w, u, v, s, ctx.eps), None, None, None, None, None)
        row = _Row(mean, scale, c)
        of_u = _projected(u, x, row)
        d_gy = torch.addcmul(torch.addcmul(s, v, c), w, of_u)
        d_w = _summed(gy * of_u) if ctx.needs_input_grad[2] else None
        inner = torch.addcmul(v, scale * _mean(c * u), w, value=-1) * gy
        inner = torch.addcmul(inner, scale * m, u, value=-1)
        d_x = torch.addcmul(_projected(inner, x, row), scale * _mean(u * gx), c, value=-1)
        return d_gy, d_x, d_w, None, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, gy_t: Any, x_t: Any, w_t: Any, *_: None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        gy, x, w, mean, scale, c, m, gx = ctx.saved_tensors
        row, a = _Row(mean, scale, c), w * gy
        with forward_ad._set_fwd_grad_enabled(False):
            a_t = torch.zeros_like(gy) if gy_t is None else w * gy_t
            a_t = a_t if w_t is None else a_t + w_t * gy
            gx_t = _projected(a_t, x, row)
            gw_t = torch.zeros_like(gy) if gy_t is None else gy_t * c
            if x_t is not None:
                of_x = _projected(x_t, x, row)
                gx_t = gx_t - scale * (_mean(c * x_t) * gx + m * of_x + _mean(a * of_x) * c)
                gw_t = gw_t + gy * of_x
            return gx_t, _summed(gw_t), _summed(torch.zeros_like(gy) if gy_t is None else gy_t)


def _pulled_back(
    gy: torch.Tensor, x: torch.Tensor, w: torch.Tensor, u: torch.Tensor, v: torch.Tensor, s: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """d/dgy, d/dx and d/dw by operations that are differentiable themselves."""
    scale = torch.rsqrt(x.var(-1, correction=0, keepdim=True) + eps)
    c = scale * (x - _mean(x))

    def projected(t: torch.Tensor) -> torch.Tensor:
        return scale * (t - _mean(t) - c * _mean(c * t))

    a = w * gy
    of_u = projected(u)
    inner = v * gy - scale * (_mean(c * a) * u + _mean(c * u) * a)
    d_x = projected(inner) - scale * c * _mean(u * projected(a))
    return w * of_u + v * c + s, d_x, _summed(gy * of_u)


def _backward(
    gy: torch.Tensor, x: torch.Tensor, w: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """gx, gw, gb; where nothing differentiates them again, by torch's kernel alone."""
    if not torch.is_grad_enabled() and forward_ad._current_level < 0:
        row = _row_of(x, eps)
        found: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = torch.ops.aten.native_layer_norm_backward.default(
            gy, x, x.shape[-1:], row.mean, row.scale, w, w, [True, True, True]
        )
        return found
    with torch.no_grad(), forward_ad._set_fwd_grad_enabled(False):
        row = _row_of(x, eps)
        m = _mean(row.centred * w * gy)
    applied: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = _Backward.apply(gy, x, w, *row, m, eps)
    return applied


def layer_norm(
    input: torch.Tensor,
    normalized_shape: list[int],
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> torch.Tensor:
    """`torch.nn.functional.layer_norm`; torch's own over several dimensions, or without weight and bias."""
    if len(normalized_shape) != 1 or weight is None or bias is None:
        return torch.nn.functional.layer_norm(input, normalized_shape, weight, bias, eps)
    found: torch.Tensor = _LayerNorm.apply(input, weight, bias, eps)
    return found
