"""Scaled dot-product attention whose derivatives work on some queries at a time, their weights made anew.

Torch's fused kernels have no second derivative, and its plain operations keep several matrices of queries times keys of
every head. With P = softmax(S), S = s Q K^T + M, O = P V and B(X) = P (X - rowsum P X), the derivative of a softmax:

    G = gO V^T    gS = B(G)    gQ = s gS K    gK = s gS^T Q    gV = P^T gO

and for directions h of (Q, K, V), with T = s (hQ K^T + Q hK^T), dP = B(T) and C = B((G - rowsum P G) (T - rowsum P T) +
gO hV^T):

    d/dgO = dP V + P hV    d/dQ = s (C K + gS hK)    d/dK = s (C^T Q + gS^T hQ)    d/dV = dP^T gO
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd import Function, forward_ad
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

SCORES = 2**22  # queries times keys of all heads at once, in numbers
LARGE = 2**20  # of a sample, from which on its weights are not worth keeping
_FUSED = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]

Three = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def fused_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, is_causal: bool, scale: float | None
) -> torch.Tensor:
    """The value by whichever kernel torch has for it; differentiable once."""
    with sdpa_kernel(_FUSED):
        return functional.scaled_dot_product_attention(q, k, v, mask, 0.0, is_causal, scale=scale)


def pieces(q: torch.Tensor, k: torch.Tensor) -> Iterator[slice]:
    """The queries, as many at a time as `SCORES` allows."""
    size = max(1, SCORES // max(q.shape[:-2].numel() * k.shape[-2], 1))
    for first in range(0, q.shape[-2], size):
        yield slice(first, min(first + size, q.shape[-2]))


def weights_of(
    scaled: torch.Tensor, k: torch.Tensor, mask: torch.Tensor | None, is_causal: bool, rows: slice
) -> torch.Tensor:
    """P of some queries, which are scaled already; a query that sees nothing attends to nothing, as in torch.

    Args:
        scaled: s times these queries.
        k: all keys.
        mask: of all queries: what is added to the scores, or which keys are seen.
        is_causal: a query sees the keys up to its own place.
        rows: the places of the queries.
    """
    scores = scaled @ k.mT
    if is_causal:
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril(rows.start)
        return torch.softmax(scores.masked_fill(~seen, float("-inf")), -1)
    if mask is None:
        return torch.softmax(scores, -1)
    part = mask[..., rows, :] if mask.dim() > 1 and mask.shape[-2] > 1 else mask
    seen = part if part.dtype == torch.bool else ~part.isneginf()
    scores = scores.masked_fill(~part, float("-inf")) if part.dtype == torch.bool else scores + part
    return torch.softmax(scores, -1).masked_fill(~seen.any(-1, keepdim=True), 0.0)


def softmax_derivative(x: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """B(X) = P (X - rowsum P X); the matrix is symmetric, so that it serves forward and backward."""
    found: torch.Tensor = torch.ops.aten._softmax_backward_data.default(x, p, -1, p.dtype)
    return found


class _Attention(Function):
    """O = softmax(s Q K^T + M) V."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> torch.Tensor:
        q, k, v, mask, ctx.is_causal, ctx.scale = args
        ctx.save_for_backward(q, k, v, mask)
        return fused_attention(q, k, v, mask, ctx.is_causal, ctx.scale)

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, mask = ctx.saved_tensors
        found: Three = _Gradients.apply(g, q, k, v, mask, ctx.is_causal, ctx.scale)
        return (*found, None, None, None)


class _Gradients(Function):
    """gQ, gK and gV."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Three:
        g, q, k, v, mask, ctx.is_causal, ctx.scale = args
        ctx.save_for_backward(g, q, k, v, mask)
        by_q, by_k, by_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for rows in pieces(q, k):
            some, scaled = g[..., rows, :], q[..., rows, :] * ctx.scale
            p = weights_of(scaled, k, mask, ctx.is_causal, rows)
            moved = softmax_derivative(some @ v.mT, p)
            by_q[..., rows, :] = (moved @ k).mul_(ctx.scale)
            by_k += moved.mT @ scaled
            by_v += p.mT @ some
        return by_q, by_k, by_v

    @staticmethod
    def backward(ctx: Any, h_q: torch.Tensor, h_k: torch.Tensor, h_v: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """In operations that torch can differentiate once more."""
        g, q, k, v, mask = ctx.saved_tensors
        by_g: list[torch.Tensor] = []
        by_q: list[torch.Tensor] = []
        by_k: torch.Tensor | None = None
        by_v: torch.Tensor | None = None
        for rows in pieces(q, k):
            some, scaled, moving = g[..., rows, :], q[..., rows, :] * ctx.scale, h_q[..., rows, :] * ctx.scale
            p = weights_of(scaled, k, mask, ctx.is_causal, rows)
            pulled, moved = some @ v.mT, moving @ k.mT + scaled @ h_k.mT
            g_s, d_p = softmax_derivative(pulled, p), softmax_derivative(moved, p)
            bent = (pulled - (p * pulled).sum(-1, True)) * (moved - (p * moved).sum(-1, True)) + some @ h_v.mT
            c = softmax_derivative(bent, p)
            by_g.append(d_p @ v + p @ h_v)
            by_q.append((c @ k + g_s @ h_k) * ctx.scale)
            more_k, more_v = c.mT @ scaled + g_s.mT @ moving, d_p.mT @ some
            by_k = more_k if by_k is None else by_k + more_k
            by_v = more_v if by_v is None else by_v + more_v
        return torch.cat(by_g, -2), torch.cat(by_q, -2), by_k, by_v, None, None, None


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """`torch.nn.functional.scaled_dot_product_attention`; torch's own for short sequences and in forward mode."""
    large = query.dim() > 2 and query.shape[1:-2].numel() * query.shape[-2] * key.shape[-2] >= LARGE
    alike = query.shape[:-2] == key.shape[:-2] == value.shape[:-2]
    learned = attn_mask is not None and attn_mask.requires_grad
    if not large or not alike or learned or dropout_p or enable_gqa or forward_ad._current_level >= 0:
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    found: torch.Tensor = _Attention.apply(query, key, value, attn_mask, is_causal, factor)
    return found
