"""A model whose parameters are cut over the ranks: each is gathered where the model reads it, and given up again.

What the graph would keep of a gathered parameter it keeps as a recipe, and gathers it once more when the backward pass
wants it.

Every rank has to go through the same collectives in the same order. It does where it runs the same operations: shapes
and values may differ from rank to rank (also a loss times 0, where a rank has no samples left), as autograd runs every
node between the loss and a parameter whether its gradient is zero or not. It does not where what is run depends on the
values (experts that no token of a rank was sent to, an early exit), and the ranks then wait for each other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from curvtool.cluster.solo import Solo
from curvtool.errors import DerivativeError
from curvtool.linalg.shards import Shards
from curvtool.problem.gathering import Cut, Gathered, Products, gather

Pieces = Mapping[str, torch.Tensor]
_REPLACED = ("_parameters", "_flat_weights", "_flat_weight_refs")  # in a call; recurrent layers renew the last two


class _Reader:
    """Gathers what the modules read in one call. What one module has read is kept until another one reads."""

    def __init__(self, cuts: Mapping[str, Cut], pieces: Pieces) -> None:
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
            self._kept[key] = gather(self.pieces[name], self.cuts[name])
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
        self.model, self.cluster, self._gathered = model, cluster, Gathered()
        self._last: tuple[torch.Tensor, torch.Tensor] | None = None  # what was gathered again, from which piece
        own = dict(model.named_parameters())
        self.cuts = {name: Cut(p.shape, cluster, self._gathered) for name, p in own.items()}
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
            with Products():
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
