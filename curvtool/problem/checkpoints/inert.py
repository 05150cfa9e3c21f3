"""What a torch file holds, seen without running any of it: stand-ins for every class, tensors without numbers.

A pickle is a program; here it runs with nothing to call. Names that it would import become empty stand-ins, and tensors
lie on the meta device.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from curvtool.errors import LoadError
from curvtool.problem.checkpoints.bounded import BoundedUnpickler
from curvtool.problem.checkpoints.limits import too_large, torn

_STORAGES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
    "ComplexDoubleStorage": torch.complex128, "ComplexFloatStorage": torch.complex64, "UntypedStorage": torch.uint8,
    "QUInt8Storage": torch.uint8, "QInt8Storage": torch.int8, "QInt32Storage": torch.int32,
}  # fmt: skip
_PLAIN = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): torch.Size,
    **{("torch", str(dtype).removeprefix("torch.")): dtype for dtype in _STORAGES.values()},
}
_MAX_TENSORS = 1_000_000
_MAX_DEPTH = 200


class StandIn:
    """An object of a class that was not imported, with what would have been its state."""

    reference = ""

    def __new__(cls, *args: Any, **kwargs: Any) -> StandIn:
        """Takes whatever arguments there are."""
        made = super().__new__(cls)
        made.state = {}
        return made

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.state: Any

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def append(self, value: Any) -> None:
        """Elements of a list that is no list here are left out."""

    extend = append

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def __hash__(self) -> int:
        return id(self)


class _Storage:
    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype


class _Unpickler(BoundedUnpickler):
    """Imports nothing."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.imports: list[str] = []

    def find_class(self, module: str, name: str) -> Any:
        found = _PLAIN.get((module, name))
        if found is not None:
            return found
        if module == "torch._utils" and name in _REBUILD:
            return _REBUILD[name]
        reference = f"{module}.{name}"
        if reference not in self.imports:
            self.imports.append(reference)
        return type("StandIn", (StandIn,), {"reference": reference})

    def persistent_load(self, saved: Any) -> Any:
        """A storage: its type alone."""
        if isinstance(saved, tuple) and len(saved) > 2 and saved[0] == "storage":
            name = getattr(saved[1], "reference", "").rpartition(".")[2]
            return _Storage(_STORAGES.get(name, torch.uint8))
        return StandIn()


def _rebuild_tensor(storage: Any, _offset: Any, size: Any, *_: Any) -> Any:
    if not isinstance(storage, _Storage):
        return StandIn()
    sizes = tuple(size)
    if not all(type(number) is int and 0 <= number < 2**62 for number in sizes):
        raise pickle.UnpicklingError(f"a tensor of shape {str(sizes)[:80]}")
    return torch.empty(sizes, dtype=storage.dtype, device="meta")


def _rebuild_tensor_v3(storage: Any, offset: Any, size: Any, _stride: Any, _grad: Any, _hooks: Any, dtype: Any) -> Any:
    found = _rebuild_tensor(storage, offset, size)
    return found.to(dtype) if isinstance(found, torch.Tensor) and isinstance(dtype, torch.dtype) else found


def _rebuild_parameter(data: Any, *_: Any) -> Any:
    return data


_REBUILD = {
    "_rebuild_tensor": _rebuild_tensor,
    "_rebuild_tensor_v2": _rebuild_tensor,
    "_rebuild_tensor_v3": _rebuild_tensor_v3,
    "_rebuild_parameter": _rebuild_parameter,
    "_rebuild_parameter_with_state": _rebuild_parameter,
}


def look_into(path: Path, is_zip: bool) -> tuple[Any, list[str]]:
    """The content of a torch.save or TorchScript file with stand-ins, and what it would import.

    Raises:
        LoadError: CT011, the file is torn, or no such file.
    """
    try:
        if is_zip:
            return _load(io.BytesIO(_data_pickle(path)))
        with path.open("rb") as file:
            first = _Unpickler(file)
            content = first.load()
            if content == _LEGACY_MAGIC:
                for _ in range(2):  # the protocol, and the machine that wrote it
                    _Unpickler(file).load()
                return _load(file)
            return content, first.imports
    except LoadError:
        raise
    except Exception as error:  # a pickle fails in any way
        raise torn(path, error) from error


_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


def _load(file: Any) -> tuple[Any, list[str]]:
    unpickler = _Unpickler(file)
    content = unpickler.load()
    return content, unpickler.imports


def _data_pickle(path: Path) -> bytes:
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.filename == "data.pkl" or entry.filename.partition("/")[2] == "data.pkl":
                if entry.file_size > path.stat().st_size:
                    raise too_large(path, f"{entry.filename[:80]} of {entry.file_size:,} bytes")
                return archive.read(entry)
    raise torn(path, KeyError("no data.pkl in it"))


def tensors_in(content: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of an object by the names that a module would give them, each object visited once."""
    seen: set[int] = set()  # of objects that `content` keeps alive
    found = 0
    stack: list[tuple[str, Any, int]] = [("", content, 0)]
    while stack:
        name, value, depth = stack.pop()
        if isinstance(value, torch.Tensor):
            found += 1
            if found > _MAX_TENSORS:
                return
            yield name, value
            continue
        original = value
        if isinstance(value, StandIn):
            value = original = value.state
        if isinstance(value, (list, tuple)):
            value = dict(enumerate(value))
        if not isinstance(value, Mapping) or depth > _MAX_DEPTH or id(original) in seen:
            continue
        seen.add(id(original))
        inner = []
        for key, each in value.items():
            joins = key in {"_parameters", "_buffers", "_modules"}
            inner.append((name if joins else f"{name}.{key}" if name else str(key), each, depth + 1))
        stack += reversed(inner)
