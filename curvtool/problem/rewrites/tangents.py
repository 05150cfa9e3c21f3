"""Forward derivatives J v of one order, fused: what torch's own rules compose of many operations.

Torch's forward mode has to be differentiable itself. A product with the Jacobian alone has not: the value keeps its
graph for J^T, and the tangent rides along as a plain tensor.

    linear      y' = x' W^T + x W'^T + b'
    layer norm  y' = w P x' + w' n + b', n the normalised x and P its derivative, which is symmetric: the kernel of J^T
    softmax     y' = y (x' - <y, x'>), symmetric likewise
    attention   the value by whichever fused kernel torch has; the tangent in pieces of queries
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.autograd import forward_ad
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from curvtool.problem.rewrites.attention import fused_attention, pieces, softmax_derivative, weights_of


def _apart(value: torch.Tensor | None) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Value and tangent; None where there is none."""
    if value is None:
        return None, None
    primal, tangent = forward_ad.unpack_dual(value)
    return primal, tangent


def _both(value: torch.Tensor, tangent: torch.Tensor | None) -> torch.Tensor:
    return value if tangent is None else forward_ad.make_dual(value, tangent)


def _linear(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    (x, x_t), (w, w_t), (b, b_t) = _apart(input), _apart(weight), _apart(bias)
    assert x is not None and w is not None
    y = functional.linear(x, w, b)
    if x_t is None and w_t is None and b_t is None:
        return y
    with torch.no_grad():
        if w_t is not None:
            y_t = functional.linear(x, w_t, b_t)
        else:
            y_t = torch.zeros_like(y) if b_t is None else b_t.expand_as(y).contiguous()
        if x_t is not None:
            y_t.view(-1, y.shape[-1]).addmm_(x_t.reshape(-1, x_t.shape[-1]), w.T)
    return _both(y, y_t)


def _layer_norm(
    input: torch.Tensor,
    normalized_shape: Sequence[int],
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> torch.Tensor:
    (x, x_t), (w, w_t), (b, b_t) = _apart(input), _apart(weight), _apart(bias)
    assert x is not None
    y, mean, scale = torch.native_layer_norm(x, normalized_shape, w, b, eps)
    with torch.no_grad():
        y_t = None
        if w_t is not None:
            y_t = functional.layer_norm(x, normalized_shape, w_t, b_t, eps)
        elif b_t is not None:
            y_t = b_t.expand_as(y).contiguous()
        if x_t is not None:
            moved = torch.ops.aten.native_layer_norm_backward.default(
                x_t.contiguous(), x, list(normalized_shape), mean, scale, None, None, [True, False, False]
            )[0]
            moved = moved if w is None else moved.mul_(w)
            y_t = moved if y_t is None else y_t.add_(moved)
    return _both(y, y_t)


def _softmax(input: torch.Tensor, dim: int, _stacklevel: int = 3, dtype: torch.dtype | None = None) -> torch.Tensor:
    x, x_t = _apart(input)
    assert x is not None
    y = torch.softmax(x, dim, dtype=dtype)
    if x_t is None:
        return y
    with torch.no_grad():
        y_t = torch.ops.aten._softmax_backward_data.default(x_t.to(y.dtype), y, dim, y.dtype)
    return _both(y, y_t)


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    (q, q_t), (k, k_t), (v, v_t) = _apart(query), _apart(key), _apart(value)
    mask, mask_t = _apart(attn_mask)
    assert q is not None and k is not None and v is not None
    if dropout_p or enable_gqa or mask_t is not None or (mask is not None and mask.requires_grad):
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    y = fused_attention(q, k, v, mask, is_causal, scale)
    if q_t is None and k_t is None and v_t is None:
        return y
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    with torch.no_grad():
        y_t = torch.empty_like(y)
        for rows in pieces(q, k):
            scaled = q[..., rows, :] * factor
            p = weights_of(scaled, k, mask, is_causal, rows)
            moved = torch.zeros_like(p) if q_t is None else (q_t[..., rows, :] * factor) @ k.mT
            if k_t is not None:
                moved += scaled @ k_t.mT
            found = softmax_derivative(moved, p) @ v
            y_t[..., rows, :] = found if v_t is None else found.add_(p @ v_t)
    return _both(y, y_t)


RULES: dict[Callable[..., Any], Callable[..., torch.Tensor]] = {
    functional.linear: _linear,
    functional.layer_norm: _layer_norm,
    functional.softmax: _softmax,
    functional.scaled_dot_product_attention: _attention,
}


class Pushing(TorchFunctionMode):
    """Pushes tangents through the model by these rules; only where nothing differentiates the tangents again."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """`func` by its rule."""
        return RULES.get(func, func)(*args, **(kwargs or {}))
