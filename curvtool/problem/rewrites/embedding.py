"""Embeddings whose derivatives are those of one function, whatever options they have and however they are called.

- `padding_idx`: torch's reverse mode takes the row for a constant where it is looked up, its forward mode does not.
  Here the lookup of padding is a constant, so that all modes agree.
- `scale_grad_by_freq` divides the gradient by the frequency of a token: the gradient of no function. It is left out.
- `sparse` changes how a gradient is stored alone. It is left out.
- `max_norm` shortens rows in place, in the forward pass. It is refused.
- bags are lookups and a sum, mean or maximum: torch's own have no second derivative.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from curvtool.errors import DerivativeError

Held = dict[tuple[int, int], torch.Tensor]


def _refuse_max_norm(max_norm: float | None) -> None:
    if max_norm is not None:
        raise DerivativeError(
            "CT050",
            "an embedding with max_norm shortens its rows in the forward pass, so the loss is no function of them",
            expected="an embedding without max_norm",
            received=f"max_norm={max_norm:g}",
            remedy="shorten the rows once (with torch.no_grad(): weight.renorm_(norm_type, 0, max_norm)), save them, "
            "and leave max_norm out of the factory",
        )


class Embeddings(TorchFunctionMode):
    """Calls lookups with derivatives that agree in place of torch's.

    Args:
        held: padding rows by the number of the lookup in a call and the row; what is looked up is put there the first
            time, and taken from there afterwards. For differences of gradients, which move the parameters: a constant
            must not move with them. None looks up the rows as they are, without a derivative.

    Attributes:
        cleared_scaling: whether a call had `scale_grad_by_freq`.
        num_lookups: calls of an embedding.
        num_padded: those with `padding_idx`.
    """

    def __init__(self, held: Held | None = None) -> None:
        super().__init__()
        self.held = held
        self.cleared_scaling = False
        self.num_lookups = self.num_padded = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """`func`, or the lookup that stands for it."""
        lookup = _LOOKUPS.get(func)
        if lookup is None:
            return func(*args, **(kwargs or {}))
        self.num_lookups += 1
        return lookup(self, *args, **(kwargs or {}))

    def rows(self, weight: torch.Tensor, indices: torch.Tensor, padding: int | None) -> torch.Tensor:
        """weight[indices], constant where an index is the padding: shape (*indices.shape, D)."""
        found = torch.embedding(weight, indices)
        if padding is None:
            return found
        self.num_padded += 1
        row = weight.detach()[padding]
        if self.held is not None:
            row = self.held.setdefault((self.num_padded, padding), row.clone())
        return torch.where((indices == padding).unsqueeze(-1), row, found)

    def embedding(
        self,
        input: torch.Tensor,
        weight: torch.Tensor,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
    ) -> torch.Tensor:
        """`torch.nn.functional.embedding`."""
        _refuse_max_norm(max_norm)
        self.cleared_scaling |= scale_grad_by_freq
        return self.rows(weight, input, _row(padding_idx, weight))

    def torch_embedding(
        self,
        weight: torch.Tensor,
        indices: torch.Tensor,
        padding_idx: int = -1,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
    ) -> torch.Tensor:
        """`torch.embedding`, where a negative index is none."""
        self.cleared_scaling |= scale_grad_by_freq
        return self.rows(weight, indices, padding_idx if padding_idx >= 0 else None)

    def bag(
        self,
        input: torch.Tensor,
        weight: torch.Tensor,
        offsets: torch.Tensor | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        per_sample_weights: torch.Tensor | None = None,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
    ) -> torch.Tensor:
        """`torch.nn.functional.embedding_bag`; bags given by offsets have torch's own derivatives."""
        if input.is_floating_point() and not weight.is_floating_point():  # in an order that torch still takes
            input, weight = weight, input
        _refuse_max_norm(max_norm)
        self.cleared_scaling |= scale_grad_by_freq
        if input.dim() != 2 or offsets is not None:
            return functional.embedding_bag(
                input, weight, offsets, mode=mode, per_sample_weights=per_sample_weights,
                include_last_offset=include_last_offset, padding_idx=padding_idx,
            )  # fmt: skip
        padding = _row(padding_idx, weight)
        found = torch.embedding(weight, input)
        counted = torch.ones_like(input, dtype=torch.bool) if padding is None else input != padding
        left_out = ~counted.unsqueeze(-1)
        if mode == "max":
            largest = found.masked_fill(left_out, -torch.inf).max(1).values
            return torch.where(counted.any(1, keepdim=True), largest, torch.zeros_like(largest))
        found = found.masked_fill(left_out, 0.0)
        if per_sample_weights is not None:
            found = found * per_sample_weights.unsqueeze(-1)
        total = found.sum(1)
        return total / counted.sum(1, keepdim=True).clamp_min(1) if mode == "mean" else total

    def shortened(self, weight: torch.Tensor, indices: torch.Tensor, max_norm: float, norm_type: float) -> torch.Tensor:
        """`torch.embedding_renorm_`, refused."""
        _refuse_max_norm(max_norm)
        return weight


def _row(padding_idx: int | None, weight: torch.Tensor) -> int | None:
    return None if padding_idx is None else padding_idx % len(weight)


_LOOKUPS: dict[Any, Callable[..., torch.Tensor]] = {
    functional.embedding: Embeddings.embedding,
    functional.embedding_bag: Embeddings.bag,
    torch.embedding: Embeddings.torch_embedding,
    torch.embedding_renorm_: Embeddings.shortened,
    torch.ops.aten.embedding.default: Embeddings.torch_embedding,
    torch.ops.aten.embedding_renorm.default: Embeddings.shortened,
    torch.ops.aten.embedding_renorm_.default: Embeddings.shortened,
}
