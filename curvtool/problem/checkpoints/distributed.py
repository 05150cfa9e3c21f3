"""Torch distributed checkpoints: tensors in pieces, put together on one process without running what is in the folder.

The index (`.metadata`) is a pickle. It is read by an unpickler that knows the classes of such an index and no others;
the pieces are read by torch with `weights_only`, each from the bytes that the index names.
"""

from __future__ import annotations

import importlib
import io
from pathlib import Path
from typing import Any

import torch

from curvtool.errors import LoadError
from curvtool.problem.checkpoints.bounded import BoundedUnpickler
from curvtool.problem.checkpoints.limits import inner_name, torn

_CLASSES = "torch.distributed.checkpoint.metadata"
_KNOWN = {
    *((_CLASSES, name) for name in (
        "Metadata", "MetadataIndex", "BytesStorageMetadata", "ChunkStorageMetadata", "StorageMeta", "TensorProperties",
        "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
    )),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.distributed.checkpoint._fsspec_filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
    ("collections", "OrderedDict"),
    *((f"pathlib{inner}", name) for inner in ("", "._local")
      for name in ("PosixPath", "PurePosixPath", "Path", "PurePath")),
    *(("torch", str(value).removeprefix("torch.")) for value in vars(torch).values() if isinstance(value, torch.dtype)),
}  # fmt: skip
_MAX_DEPTH = 50


class _Index(BoundedUnpickler):
    """Knows the classes of an index, and no others."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise LoadError(
                "CT015",
                f"the index of the distributed checkpoint would import {module[:80]}.{name[:80]}",
                expected="names, shapes and places of tensors alone",
                received=f"{module[:80]}.{name[:80]}",
                remedy="do not load it: that has no place in such an index",
            )
        return getattr(importlib.import_module(module), name)


def read_index(folder: Path) -> Any:
    """The metadata of the checkpoint, as `torch.distributed.checkpoint.metadata.Metadata`.

    Raises:
        LoadError: CT011 torn, CT015 a class that has no place in it.
    """
    path = folder / ".metadata"
    try:
        with path.open("rb") as file:
            index = _Index(file).load()
        sizes = [item.size for item in index.state_dict_metadata.values() if hasattr(item, "size")]
        if not isinstance(index.storage_data, dict) or not all(isinstance(size, torch.Size) for size in sizes):
            raise TypeError("no index of tensors")
        return index
    except LoadError:
        raise
    except Exception as error:  # a pickle fails in any way
        raise torn(path, error) from error


class LazyTensor:
    """A tensor of a distributed checkpoint, not read yet.

    Args:
        folder: the checkpoint's.
        index: its metadata.
        name: the tensor's in the index.
    """

    def __init__(self, folder: Path, index: Any, name: str) -> None:
        self.folder, self.index, self.name = folder, index, name
        item = index.state_dict_metadata[name]
        self.shape, self.dtype, self.chunks = torch.Size(item.size), item.properties.dtype, list(item.chunks)
        if not isinstance(self.dtype, torch.dtype):
            raise TypeError(f"{name[:60]} has no type")

    def read(self) -> torch.Tensor:
        """The whole tensor, its pieces put together."""
        held = sum(piece.sizes.numel() for piece in self.chunks)
        if held != self.shape.numel():
            raise ValueError(f"{self.name[:60]}: pieces of {held:,} numbers for the shape {tuple(self.shape)}")
        places = {key.offset: info for key, info in self.index.storage_data.items() if key.fqn == self.name}
        if len(self.chunks) == 1:
            whole = self._piece(places, self.chunks[0])
            return whole.reshape(self.shape)
        pieces = [(piece, self._piece(places, piece)) for piece in self.chunks]  # no more than the files hold
        result = torch.empty(self.shape, dtype=self.dtype)
        for piece, values in pieces:
            view = result
            for dim, (offset, size) in enumerate(zip(piece.offsets, piece.sizes, strict=True)):
                view = view.narrow(dim, offset, size)
            view.copy_(values)
        return result

    def _piece(self, places: dict[Any, Any], piece: Any) -> torch.Tensor:
        info = places.get(piece.offsets, places.get(None))
        if info is None:
            raise ValueError(f"{self.name[:60]}: no place for the piece at {tuple(piece.offsets)}")
        if getattr(info, "transform_descriptors", None):
            raise ValueError(f"{self.name[:60]} is stored by {info.transform_descriptors}, which is not read here")
        path = inner_name(self.folder / ".metadata", info.relative_path)
        with path.open("rb") as file:
            file.seek(info.offset)
            content = file.read(info.length)
        values = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        if values.dtype != self.dtype or values.numel() != piece.sizes.numel():
            raise ValueError(f"{self.name[:60]}: another type or size than the index says")
        return values.detach().reshape(piece.sizes)


def lazy_content(folder: Path) -> dict[str, Any]:
    """The checkpoint's dictionary, nested as it was saved, its tensors not read; other objects are left out.

    Raises:
        LoadError: CT011, CT015.
    """
    index = read_index(folder)
    paths = index.planner_data if isinstance(index.planner_data, dict) else {}
    content: dict[str, Any] = {}
    try:
        for name, item in index.state_dict_metadata.items():
            if not hasattr(item, "chunks"):
                continue
            way = [str(part) for part in (paths.get(name) or (name,))][:_MAX_DEPTH]
            place = content
            for part in way[:-1]:
                inner = place.setdefault(part, {})
                place = inner if isinstance(inner, dict) else {}
            place[way[-1]] = LazyTensor(folder, index, str(name))
    except Exception as error:  # an index of other things than it should hold
        raise torn(folder / ".metadata", error) from error
    return content


def read_distributed(folder: Path) -> dict[str, Any]:
    """The checkpoint's dictionary with all tensors, those of optimizers left out.

    Raises:
        LoadError: CT011 torn, CT015 it would import what has no place in it.
    """
    content = lazy_content(folder)

    def read(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: read(inner) for key, inner in value.items() if not key.startswith("optim")}
        return value.read()

    try:
        found: dict[str, Any] = read(content)
        return found
    except LoadError:
        raise
    except Exception as error:  # what is in the files fits the index in no way
        raise torn(folder, error) from error
