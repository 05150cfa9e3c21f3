"""Batch normalisation in evaluation mode as the affine map a channel that it then is, y = x s + b.

With s = weight / sqrt(running variance + eps) and b = bias - running mean s. Its first derivative is one fused kernel,
and so is most of its second one, where torch's own double backward is made of some thirty elementwise operations:

    gx = gy s    gs = sum gy x    gb = sum gy        (sums over all but the channel)
    d/dgy = v_x s + x v_s + v_b    d/dx = gy v_s    d/ds = sum gy v_x
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd import Function, forward_ad


def _spread(channels: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """(C,) as (1, C, 1, …)."""
    return channels.view(1, -1, *(1,) * (like.dim() - 2))


def _products(
    gy: torch.Tensor, x: torch.Tensor, s: torch.Tensor, wanted: tuple[bool, bool, bool]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """gy s, sum gy x, sum gy: what the backward pass of a normalisation to mean 0 and variance 1 gives."""
    zero, one = torch.zeros_like(s), torch.ones_like(s)
    found: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = torch.ops.aten.native_batch_norm_backward.default(
        gy, x, s, zero, one, zero, one, False, 0.0, list(wanted)
    )
    return found


class _Affine(Function):
    """y = x s + b."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: torch.Tensor, s: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.addcmul(_spread(b, x), x, _spread(s, x))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        x, s, _ = inputs
        # with the parameters fixed x takes no part in the derivative, and half of a graph's memory is left out
        ctx.save_for_backward(*((x, s) if any(ctx.needs_input_grad[1:]) else (s,)))
        if forward_ad._current_level >= 0:
            ctx.save_for_forward(x, s)

    @staticmethod
    def backward(ctx: Any, gy: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        if not any(ctx.needs_input_grad[1:]):
            (s,) = ctx.saved_tensors
            return gy * _spread(s, gy), None, None
        x, s = ctx.saved_tensors
        found: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = _AffineGradients.apply(gy, x, s)
        return found

    @staticmethod
    def jvp(ctx: Any, x_t: torch.Tensor | None, s_t: torch.Tensor | None, b_t: torch.Tensor | None) -> torch.Tensor:
        x, s = ctx.saved_tensors
        return _along(x, s, x_t, s_t, b_t)


class _AffineGradients(Function):
    """gx = gy s, gs = sum gy x, gb = sum gy."""

    generate_vmap_rule = True

    @staticmethod
    def forward(gy: torch.Tensor, x: torch.Tensor, s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return _products(gy, x, s, (True, True, True))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(
        ctx: Any, v_x: torch.Tensor | None, v_s: torch.Tensor | None, v_b: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        gy, x, s = ctx.saved_tensors
        need_gy, need_x, need_s = ctx.needs_input_grad
        d_gy = d_x = d_s = None
        if need_gy and not (v_x is None and v_s is None and v_b is None):
            d_gy = _along(x, s, v_x, v_s, v_b)
        if need_x and v_s is not None:
            d_x = gy * _spread(v_s, gy)
        if need_s and v_x is not None:
            d_s = _products(gy, v_x, s, (False, True, False))[1]
        return d_gy, d_x, d_s

    @staticmethod
    def jvp(
        ctx: Any, gy_t: torch.Tensor | None, x_t: torch.Tensor | None, s_t: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        gy, x, s = ctx.saved_tensors
        gx_t, gs_t, gb_t = torch.zeros_like(gy), torch.zeros_like(s), torch.zeros_like(s)
        if gy_t is not None:
            gx_t, gs_t, gb_t = _AffineGradients.apply(gy_t, x, s)
        if x_t is not None:
            gs_t = gs_t + (gy * x_t).sum((0, *range(2, gy.dim())))
        if s_t is not None:
            gx_t = gx_t + gy * _spread(s_t, gy)
        return gx_t, gs_t, gb_t


def _along(
    x: torch.Tensor,
    s: torch.Tensor,
    x_t: torch.Tensor | None,
    s_t: torch.Tensor | None,
    b_t: torch.Tensor | None,
) -> torch.Tensor:
    """x_t s + x s_t + b_t, the derivative of y = x s + b."""
    shift = torch.zeros_like(s) if b_t is None else b_t
    found = _spread(shift, x)
    if s_t is not None:
        found = torch.addcmul(found, x, _spread(s_t, x))
    if x_t is not None:
        found = torch.addcmul(found, x_t, _spread(s, x))
    return found.expand_as(x)


def batch_norm(
    x: torch.Tensor,
    running_mean: torch.Tensor,
    running_var: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
) -> torch.Tensor:
    """`torch.nn.functional.batch_norm` in evaluation mode; x of shape (N, C, …)."""
    s = torch.rsqrt(running_var + eps)
    if weight is not None:
        s = s * weight
    b = -running_mean * s
    if bias is not None:
        b = b + bias
    found: torch.Tensor = _Affine.apply(x, s, b)
    return found
