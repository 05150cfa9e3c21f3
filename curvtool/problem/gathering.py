"""Parameters of which every rank holds a piece, gathered and given up again with derivatives of any order.

Gathering and reduce-scattering are each other's transpose: the backward pass of one *calls* the other as a function
with a derivative, so that derivatives of any order work, by reverse and by forward mode.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch.autograd import Function
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from curvtool.cluster.solo import Solo
from curvtool.linalg.shards import Shards


class Gathered:
    """The storages of gathered tensors that are alive, and the most bytes that there were at once."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        # the weak reference keeps the number from being given to another storage
        self._alive: dict[int, tuple[StorageWeakRef, int, Cut, torch.Tensor]] = {}

    def note(self, whole: torch.Tensor, cut: Cut, piece: torch.Tensor) -> None:
        """A tensor that was gathered from the ranks' pieces."""
        storage = whole.untyped_storage()
        self._alive = {key: each for key, each in self._alive.items() if not each[0].expired()}
        self._alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes(), cut, piece
        self.peak_bytes = max(self.peak_bytes, sum(each[1] for each in self._alive.values()))

    def origin(self, tensor: torch.Tensor) -> tuple[Cut, torch.Tensor] | None:
        """How, and from which piece of this rank, the tensor that this one is (a view of) was gathered."""
        found = self._alive.get(tensor.untyped_storage()._cdata)
        return None if found is None else found[2:]


class Cut:
    """How one parameter is cut: a flat piece for every rank, the last ones' shorter, or empty."""

    def __init__(self, shape: torch.Size, cluster: Solo, gathered: Gathered) -> None:
        self.shape, self.cluster, self.gathered = shape, cluster, gathered
        self.shards = Shards((math.prod(shape),), cluster.size)

    @property
    def columns(self) -> range:
        """The coordinates of this rank's piece."""
        return self.shards.columns(self.cluster.rank)[0]

    def whole(self, piece: torch.Tensor) -> torch.Tensor:
        """All ranks' pieces in the parameter's shape; without derivative."""
        rows = self.cluster.gather(self.shards.padded(piece, self.cluster.rank))
        whole = self.shards.joined(rows).view(self.shape)
        self.gathered.note(whole, self, piece)
        return whole

    def piece(self, whole: torch.Tensor) -> torch.Tensor:
        """This rank's piece of the sum over the ranks; without derivative."""
        dealt = self.shards.dealt(whole.reshape(-1))
        return self.cluster.scatter_sum(dealt.reshape(-1))[: len(self.columns)]


class _Gather(Function):
    """This rank's piece to the whole parameter."""

    @staticmethod
    def forward(piece: torch.Tensor, cut: Cut) -> torch.Tensor:
        return cut.whole(piece.data)  # for the recipe: without graph and tangent

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        ctx.cut = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return _ReduceScatter.apply(gradient, ctx.cut), None

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor, _: None) -> Any:
        return _Gather.apply(tangent, ctx.cut)


class _ReduceScatter(Function):
    """Whole tensors to this rank's piece of their sum over the ranks."""

    @staticmethod
    def forward(whole: torch.Tensor, cut: Cut) -> torch.Tensor:
        return cut.piece(whole)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        ctx.cut = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return _Gather.apply(gradient, ctx.cut), None

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor, _: None) -> Any:
        return _ReduceScatter.apply(tangent, ctx.cut)


def gather(piece: torch.Tensor, cut: Cut) -> torch.Tensor:
    """The whole parameter, with its graph to this rank's piece; `gathered_from` says which."""
    whole: Any = _Gather.apply(piece, cut)
    whole.gathered_from = piece, cut
    return cast(torch.Tensor, whole)


class _Product(Function):
    """x W, or x W^T where `turned`: (..., n) to (..., m), W gathered from a piece.

    torch's own product would have one node for all of W's gradient: in a second derivative its parts come early and
    late in the pass, so that those of all parameters would lie there whole until the late ones come; and in forward
    mode the graph would keep W's tangent. Here every part has a reduce-scatter of its own, and a piece is kept.
    """

    @staticmethod
    def forward(x: torch.Tensor, piece: torch.Tensor, whole: torch.Tensor, cut: Cut, turned: bool) -> torch.Tensor:
        return x @ (whole.T if turned else whole)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        x, piece, _, ctx.cut, ctx.turned = inputs
        ctx.save_for_backward(x, piece)
        ctx.save_for_forward(x, piece)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        x, piece = ctx.saved_tensors
        of_x = of_piece = None
        if ctx.needs_input_grad[1]:
            rows, cotangents = x.reshape(-1, x.shape[-1]), gradient.reshape(-1, gradient.shape[-1])
            of_piece = _ReduceScatter.apply(cotangents.T @ rows if ctx.turned else rows.T @ cotangents, ctx.cut)
        if ctx.needs_input_grad[0]:
            whole = _Gather.apply(piece, ctx.cut)
            of_x = gradient @ (whole if ctx.turned else whole.T)
        return of_x, of_piece, None, None, None

    @staticmethod
    def jvp(ctx: Any, of_x: torch.Tensor, of_piece: torch.Tensor, *_: None) -> Any:
        x, piece = ctx.saved_tensors
        change = _Gather.apply(of_piece, ctx.cut)
        found = x @ (change.T if ctx.turned else change)
        whole = _Gather.apply(piece, ctx.cut)
        return found + of_x @ (whole.T if ctx.turned else whole)


def _product(x: torch.Tensor, weight: Any, turned: bool) -> torch.Tensor | None:
    """The product with a matrix that was gathered and is whole; None for another, or where no graph is made."""
    origin = getattr(weight, "gathered_from", None)
    if origin is None or weight.dim() != 2 or not torch.is_grad_enabled():
        return None
    piece, cut = origin
    found: torch.Tensor = _Product.apply(x, piece, weight.detach(), cut, turned)
    return found


def _linear(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor | None:
    found = _product(input, weight, True)
    return found if found is None or bias is None else found + bias


def _addmm(input: torch.Tensor, mat1: torch.Tensor, mat2: torch.Tensor, **scales: Any) -> torch.Tensor | None:
    found = None if scales else _product(mat1, mat2, False)
    return None if found is None else input + found


_PRODUCTS: dict[Any, Callable[..., torch.Tensor | None]] = {
    functional.linear: _linear,
    torch.addmm: _addmm,
    torch.matmul: lambda input, other, **rest: None if rest else _product(input, other, False),
    torch.Tensor.matmul: lambda input, other: _product(input, other, False),
    torch.Tensor.__matmul__: lambda input, other: _product(input, other, False),
}


class Products(TorchFunctionMode):
    """Calls `_Product` for the products with gathered matrices."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        product = _PRODUCTS.get(func)
        found = None if product is None else product(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {})) if found is None else found
