"""Arrays in files: NumPy's and safetensors' are mapped and never read whole, archives and torch files are read."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from curvtool.errors import LoadError
from curvtool.problem.checkpoints.limits import require_regular
from curvtool.problem.checkpoints.read import read as read_checkpoint
from curvtool.problem.checkpoints.safetensors_header import Entry, read_header
from curvtool.problem.sources.reading import require_room
from curvtool.problem.tree import named_tensors

SUFFIXES = (".npz", ".npy", ".safetensors", ".pt", ".pth")
_MAX_NPY_HEADER = 2**20
_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U64": torch.uint64, "U32": torch.uint32,
    "U16": torch.uint16, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


def read_arrays(path: Path) -> tuple[Any, bool]:
    """What is in the file (a tensor, or tensors by name), and whether it lies in the file's memory map.

    Raises:
        LoadError: CT021 not data, CT027 too large for the memory; and those of checkpoints for torch files.
    """
    try:
        require_regular(path)
        match path.suffix:
            case ".npy":
                _npy_header(path)
                array = np.load(path, mmap_mode="r", allow_pickle=False)
                return tensor_of(array, path.name), array.dtype.isnative
            case ".npz":
                total = sum(prod(shape) * dtype.itemsize for _, shape, dtype in _npz_headers(path))
                require_room(total, str(path), "save the arrays as .npy: inputs.npy,targets.npy, which are mapped")
                with np.load(path, allow_pickle=False) as archive:
                    return {name: tensor_of(archive[name], name) for name in archive.files}, False
            case ".safetensors":
                entries, _ = read_header(path)
                return {name: _mapped(path, name, entry) for name, entry in entries.items()}, True
        return read_checkpoint(path), False
    except LoadError:
        raise
    except Exception as error:  # a damaged file fails in any way
        pickled = "allow_pickle" in str(error) or "pickle" in str(error).lower()
        raise LoadError(
            "CT021",
            f"{str(path)[:300]} cannot be read as data",
            expected="arrays of numbers" if pickled else f"a whole {path.suffix} file",
            received="pickled Python objects"
            if pickled
            else (str(error).splitlines() or [type(error).__name__])[0][:200],
            remedy="save plain arrays: np.savez(path, inputs=x, targets=y)",
        ) from error


def tensor_of(array: np.ndarray, name: str) -> torch.Tensor:
    """The array as a tensor over the same memory, also where it may not be written to.

    Raises:
        LoadError: CT021, it holds no numbers.
    """
    if array.dtype.kind not in "fiub" or array.dtype.itemsize > 8:
        raise LoadError(
            "CT021",
            f"the array {name!r} holds no numbers",
            expected="floats of at most 64 bits, integers or booleans",
            received=str(array.dtype)[:100],
            remedy="encode it as numbers",
        )
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it may not be written to: nothing here writes
        return torch.from_numpy(array if array.ndim else array.reshape(1))


def _mapped(path: Path, name: str, entry: Entry) -> torch.Tensor:
    if entry.dtype not in _DTYPES:
        raise LoadError(
            "CT021",
            f"the array {name[:100]!r} is of a type that holds no data here",
            expected=", ".join(_DTYPES),
            received=entry.dtype,
            remedy="save it as float32",
        )
    dtype = _DTYPES[entry.dtype]
    if prod(entry.shape) == 0:
        return torch.empty(entry.shape, dtype=dtype)
    raw: np.ndarray = np.memmap(path, np.uint8, "r", entry.start, (entry.stop - entry.start,))
    if entry.start % dtype.itemsize:  # processors and torch want numbers where their size divides the address
        raw = np.array(raw)
    return tensor_of(raw, name).view(dtype).reshape(entry.shape or (1,))


def describe(path: Path) -> list[tuple[str, tuple[int, ...], str]]:
    """Names, shapes and dtypes of the arrays in a data file; NumPy's are not read.

    Raises:
        LoadError: CT021.
    """
    if path.suffix == ".npy":
        require_regular(path)
        shape, dtype = _npy_header(path)
        return [(path.name, shape, str(dtype))]
    if path.suffix == ".npz" or zipfile.is_zipfile(path):
        return [(name, shape, str(dtype)) for name, shape, dtype in _npz_headers(path)]
    return [
        (name or path.name, tuple(t.shape), str(t.dtype).removeprefix("torch."))
        for name, t in named_tensors(read_arrays(path)[0])
    ]


def _npz_headers(path: Path) -> list[tuple[str, tuple[int, ...], np.dtype]]:
    try:
        with zipfile.ZipFile(path) as archive:
            return list(_headers_in(archive, path))
    except LoadError:
        raise
    except Exception as error:
        raise _no_array(path, error) from error


def _headers_in(archive: zipfile.ZipFile, path: Path) -> Iterator[tuple[str, tuple[int, ...], np.dtype]]:
    for entry in archive.infolist():
        if not entry.filename.endswith(".npy"):
            continue
        with archive.open(entry) as file:
            shape, dtype, size = _header(io.BytesIO(file.read(_MAX_NPY_HEADER)), path)
        if not dtype.hasobject and prod(shape) * dtype.itemsize != entry.file_size - size:
            raise _no_array(path, ValueError(f"{entry.filename[:100]}: {entry.file_size:,} bytes for {shape}"))
        yield entry.filename.removesuffix(".npy"), shape, dtype


def _npy_header(path: Path) -> tuple[tuple[int, ...], np.dtype]:
    try:
        with path.open("rb") as file:
            shape, dtype, size = _header(io.BytesIO(file.read(_MAX_NPY_HEADER)), path)
    except OSError as error:
        raise _no_array(path, error) from error
    if not dtype.hasobject and prod(shape) * dtype.itemsize != path.stat().st_size - size:
        raise _no_array(path, ValueError(f"{path.stat().st_size:,} bytes for an array of shape {str(shape)[:100]}"))
    return shape, dtype


def _header(file: io.BytesIO, path: Path) -> tuple[tuple[int, ...], np.dtype, int]:
    """Shape, dtype, and the bytes that the header takes."""
    try:
        version = np.lib.format.read_magic(file)
        reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = reader(file)
    except Exception as error:
        raise _no_array(path, error) from error
    return shape, dtype, file.tell()


def _no_array(path: Path, error: BaseException) -> LoadError:
    return LoadError(
        "CT021",
        f"{path} cannot be read as data",
        expected="whole arrays of numbers, as NumPy writes them",
        received=(str(error).splitlines() or [type(error).__name__])[0][:200],
        remedy="copy it again, or save it again: np.savez(path, inputs=x, targets=y)",
    )
