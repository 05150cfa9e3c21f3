"""A model whose parameters are cut over the ranks: each is gathered where the model reads it, and given up again.

Gathering and reduce-scattering are each other's transpose: the backward pass of one *calls* the other as a function
with a derivative, so that derivatives of any order work, by reverse and by forward mode. What the graph would keep of a
gathered parameter it keeps as a recipe, and gathers it once more when the backward pass wants it.

Every rank has to go through the same collectives in the same order. It does where it runs the same operations: shapes
and values may differ from rank to rank (also a loss times 0, where a rank has no samples left), as autograd runs every
node between the loss and a parameter whether its gradient is zero or not. It does not where what is run depends on the
values (experts that no token of a rank was sent to, an early exit), and the ranks then wait for each other.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.autograd import Function
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from curvtool.cluster.solo import Solo
from curvtool.errors import DerivativeError
from curvtool.linalg.shards import Shards

Pieces = Mapping[str, torch.Tensor]
_REPLACED = ("_parameters", "_flat_weights", "_flat_weight_refs")  # in a call; recurrent layers renew the last two


class _Gathered:
    """The storages of gathered tensors that are alive, and the most bytes that there were at once."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        # the weak reference keeps the number from being given to another storage
        self._alive: dict[int, tuple[StorageWeakRef, int, _Cut, torch.Tensor]] = {}

    def note(self, whole: torch.Tensor, cut: _Cut, piece: torch.Tensor) -> None:
        """A tensor that was gathered from the ranks' pieces."""
        storage = whole.untyped_storage()
        self._alive = {key: each for key, each in self._alive.items() if not each[0].expired()}
        self._alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes(), cut, piece
        self.peak_bytes = max(self.peak_bytes, sum(each[1] for each in self._alive.values()))

    def origin(self, tensor: torch.Tensor) -> tuple[_Cut, torch.Tensor] | None:
        """How, and from which piece of this rank, the tensor that this one is (a view of) was gathered."""
        found = self._alive.get(tensor.untyped_storage()._cdata)
        return None if found is None else found[2:]


class _Cut:
    """How one parameter is cut: a flat piece for every rank, the last ones' shorter, or empty."""

    def __init__(self, shape: torch.Size, cluster: Solo, gathered: _Gathered) -> None:
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
    def forward(piece: torch.Tensor, cut: _Cut) -> torch.Tensor:
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
    def forward(whole: torch.Tensor, cut: _Cut) -> torch.Tensor:
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


class _Product(Function):
    """x W, or x W^T where `turned`: (..., n) to (..., m), W gathered from a piece.

    torch's own product would have one node for all of W's gradient: in a second derivative its parts come early and
    late in the pass, so that those of all parameters would lie there whole until the late ones come; and in forward
    mode the graph would keep W's tangent. Here every part has a reduce-scatter of its own, and a piece is kept.
    """

    @staticmethod
    def forward(x: torch.Tensor, piece: torch.Tensor, whole: torch.Tensor, cut: _Cut, turned: bool) -> torch.Tensor:
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


class _Products(TorchFunctionMode):
    """Calls `_Product` for the products with gathered matrices."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        product = _PRODUCTS.get(func)
        found = None if product is None else product(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {})) if found is None else found


class _Reader:
    """Gathers what the modules read in one call. What one module has read is kept until another one reads."""

    def __init__(self, cuts: Mapping[str, _Cut], pieces: Pieces) -> None:
        self.cuts, self.pieces = cuts, pieces
        self._owner: object = None
        # not for as long as it lives, by a weak reference: the garbage collector must not decide on a collective
        self._kept: dict[tuple[str, bool], torch.Tensor] = {}

    def read(self, owner: object, name: str) -> torch.Tensor:
        """A whole parameter, with its graph to this rank's piece."""
        if owner is not self._owner:
            self._kept.clear()
            self._owner = owner
        key = name, torch.is_grad_enabled()
        if key not in self._kept:
            piece, cut = self.pieces[name], self.cuts[name]
            whole: Any = _Gather.apply(piece, cut)
            whole.gathered_from = piece, cut
            self._kept[key] = whole
        return self._kept[key]


class _Parameters(Mapping[str, Any]):
    """In place of a module's `_parameters` (a dict's own methods would go past an override)."""

    def __init__(self, reader: _Reader, names: Mapping[str, str | None]) -> None:
        self._reader, self._names = reader, names

    def __getitem__(self, name: str) -> Any:
        found = self._names[name]
        return None if found is None else self._reader.read(self, found)

    def __contains__(self, name: object) -> bool:  # which must not gather
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class ShardedState:
    """The parameters of a model, trainable and frozen, of each of which every rank holds a flat piece.

    Args:
        model: the module; its own parameters give names, shapes and ties alone, and may be on the meta device.
        cluster: the ranks.
        pieces: this rank's piece of every parameter by name (of a tied one under its first name), as `shard_of` cuts
            them; cut from the model's own if None.

    Attributes:
        pieces: leaves, flat, which require gradients where the model's parameter does.

    Raises:
        DerivativeError: CT064, a module reads parameters in a way that cannot be led here.
    """

    def __init__(self, model: nn.Module, cluster: Solo, pieces: Pieces | None = None) -> None:
        self.model, self.cluster, self._gathered = model, cluster, _Gathered()
        self._last: tuple[torch.Tensor, torch.Tensor] | None = None  # what was gathered again, from which piece
        own = dict(model.named_parameters())
        self.cuts = {name: _Cut(p.shape, cluster, self._gathered) for name, p in own.items()}
        given = {name: self.shard_of(p, cluster) for name, p in own.items()} if pieces is None else pieces
        self.pieces = {name: given[name].detach().requires_grad_(p.requires_grad) for name, p in own.items()}
        first = {id(p): name for name, p in own.items()}
        self._modules = [
            (module, {key: None if p is None else first[id(p)] for key, p in module._parameters.items()})
            for module in model.modules()
        ]
        for name, module in model.named_modules():
            _refuse_hidden(name, module, first)

    @staticmethod
    def shard_of(tensor: torch.Tensor, cluster: Solo) -> torch.Tensor:
        """This rank's piece of a tensor that it can see all of (as of a mapped file), a copy: (n,), flat."""
        columns = Shards((tensor.numel(),), cluster.size).columns(cluster.rank)[0]
        return tensor.detach().reshape(-1)[columns.start : columns.stop].clone()

    def release_model(self) -> None:
        """Gives up the memory of the model's own parameters, where nobody else needs them."""
        for _, parameter in self.model.named_parameters():
            parameter.data = parameter.data.new_empty(0)

    @property
    def peak_gathered_bytes(self) -> int:
        """The most bytes of gathered tensors (parameters, tangents, directions) that were alive at once."""
        return self._gathered.peak_bytes

    def whole(self, name: str) -> torch.Tensor:
        """A whole parameter, without derivative; all ranks have to ask for it."""
        return self.cuts[name].whole(self.pieces[name].detach())

    @contextlib.contextmanager
    def placed(self, pieces: Pieces | None = None) -> Iterator[None]:
        """Around a call of the model: its modules read gathered parameters.

        Args:
            pieces: what to gather in place of `self.pieces`, by name; some of them may be left out.
        """
        reader = _Reader(self.cuts, {**self.pieces, **(pieces or {})})
        entries = [module.__dict__ for module, _ in self._modules]
        before = [{key: each[key] for key in _REPLACED if key in each} for each in entries]
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)  # to ask for it reads all of a layer
        try:
            for module, names in self._modules:
                module.__dict__["_parameters"] = _Parameters(reader, names)
            with _Products():
                yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
            for each, held in zip(entries, before, strict=True):
                each.update(held)

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Around the call of the model *and* its derivatives: graphs keep recipes in place of gathered tensors."""
        try:
            with saved_tensors_hooks(self._pack, self._unpack):
                yield
        finally:
            self._last = None

    def _pack(self, tensor: torch.Tensor) -> Any:
        origin = self._gathered.origin(tensor)
        if origin is None:
            return tensor, tensor._version
        return (*origin, tensor.size(), tensor.stride(), tensor.storage_offset())

    def _unpack(self, packed: Any) -> torch.Tensor:
        if len(packed) == 2:
            tensor, version = packed
            if tensor._version != version:  # which torch itself looks at where there are no hooks alone
                raise RuntimeError("a tensor needed for gradient computation has been modified by an inplace operation")
            return tensor
        cut, piece, *layout = packed
        with torch.no_grad():
            if self._last is None or self._last[0] is not piece:  # recurrent layers ask for it at every step
                self._last = None
                self._last = piece, cut.whole(piece)
            return self._last[1].as_strided(*layout)


def _refuse_hidden(name: str, module: nn.Module, registered: Mapping[int, str]) -> None:
    """Refuses modules that reach their parameters past `__getattr__`.

    Raises:
        DerivativeError: CT064.
    """
    hidden = None
    if isinstance(module, torch.jit.ScriptModule):
        hidden = "a module of TorchScript"
    for key, value in vars(module).items():
        within = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else [value]
        listed = any(isinstance(each, nn.Parameter) and id(each) in registered for each in within)
        if listed and key != "_parameters" and not (key == "_flat_weights" and isinstance(module, nn.RNNBase)):
            hidden = f"parameters kept in {key}"
    if hidden is not None:
        raise DerivativeError(
            "CT064",
            f"the parameters of {name or 'the model'} cannot be cut over the ranks",
            expected="parameters that are read as attributes of their module",
            received=f"{hidden} ({type(module).__name__})",
            remedy="write it as a plain module (nn.ParameterList for lists), or keep whole parameters on every rank",
        )
