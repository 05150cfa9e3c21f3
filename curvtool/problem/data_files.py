"""Data files: reads arrays from NumPy, safetensors and torch files, executing nothing in them."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from curvtool.errors import LoadError, suggest
from curvtool.problem.checkpoints.read import read as read_checkpoint
from curvtool.problem.data import INPUT_KEYS, TARGET_KEYS, Data, from_mapping, from_object
from curvtool.problem.tree import named_tensors

_SUFFIXES = (".npz", ".npy", ".safetensors", ".pt", ".pth")


def from_path(text: str, *, input_key: str | None = None, target_key: str | None = None) -> Data:
    """Data from a file (.npz, .npy, .safetensors, .pt), a pair `x.npy,y.npy`, or a folder that holds one of them.

    Nothing in a file is executed: NumPy files are read without pickles, torch files with `weights_only`.

    Raises:
        LoadError: CT020 not there, CT021 not data or keys not found.
    """
    if "," in text and not Path(text).exists():
        paths = [Path(part.strip()) for part in text.split(",")]
        if len(paths) != 2:
            raise LoadError(
                "CT021",
                "a pair of files is two",
                expected="inputs.npy,targets.npy",
                received=text,
                remedy="two paths",
            )
        return Data(_array(paths[0]), _array(paths[1]))
    path = Path(text)
    if not path.exists():
        near = sorted(p.name for p in path.parent.glob("*") if p.suffix in _SUFFIXES) if path.parent.is_dir() else []
        raise LoadError(
            "CT020",
            f"the data {path} do not exist",
            expected="a file or folder, or package.module:callable",
            received="no such path",
            remedy=suggest(path.name, near) if near else "check the path",
        )
    if path.is_dir():
        return _from_folder(path, input_key, target_key)
    return _from_mapping_or_tensor(_read(path), path, input_key, target_key)


def _from_mapping_or_tensor(content: Any, path: Path, input_key: str | None, target_key: str | None) -> Data:
    if isinstance(content, torch.Tensor):  # x.npy: its targets stand beside it under a usual name
        if path.stem in INPUT_KEYS:
            beside = [path.with_name(f"{name}.npy") for name in TARGET_KEYS]
            found = next((p for p in beside if p.exists()), None)
            if found is not None:
                return Data(content, _array(found), (f"targets from {found.name}",))
        return Data(content)
    if isinstance(content, Mapping):
        return from_mapping(content, input_key, target_key)
    return from_object(content, input_key=input_key, target_key=target_key)


def _from_folder(path: Path, input_key: str | None, target_key: str | None) -> Data:
    arrays = {p.stem: p for p in sorted(path.glob("*.npy"))}
    wanted = [key for key in (input_key, *INPUT_KEYS) if key in arrays]
    if wanted:
        return from_mapping({name: _array(p) for name, p in arrays.items()}, input_key, target_key)
    files = [p for p in sorted(path.iterdir()) if p.suffix in _SUFFIXES and p.suffix != ".npy"]
    if len(files) == 1:
        return _from_mapping_or_tensor(_read(files[0]), files[0], input_key, target_key)
    raise LoadError(
        "CT021",
        f"cannot tell which file in {path} holds the data",
        expected="inputs.npy and targets.npy, or one .npz, .safetensors or .pt",
        received=", ".join(p.name for p in sorted(path.iterdir())[:8]) or "an empty folder",
        remedy=f"--data {files[0]}" if files else "name the file",
    )


def _array(path: Path) -> torch.Tensor:
    content = _read(path)
    if not isinstance(content, torch.Tensor):
        raise LoadError(
            "CT021",
            f"{path} is not one array",
            expected="a .npy file",
            received=path.suffix,
            remedy="--data FILE.npz",
        )
    return content


def _read(path: Path) -> Any:
    if not path.exists():
        raise LoadError(
            "CT020",
            f"the data {path} do not exist",
            expected="a file",
            received="no such path",
            remedy="check the path",
        )
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                return {name: _tensor(archive[name], name) for name in archive.files}
        if path.suffix == ".npy":
            return _tensor(np.load(path, mmap_mode="c", allow_pickle=False), path.name)
        if path.suffix in {".safetensors", ".pt", ".pth"}:
            return read_checkpoint(path)
    except LoadError:
        raise
    except (OSError, ValueError, EOFError, KeyError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        pickled = "allow_pickle" in str(error)
        raise LoadError(
            "CT021",
            f"{path} cannot be read as data",
            expected="arrays of numbers" if pickled else f"a whole {path.suffix} file",
            received="pickled Python objects" if pickled else str(error).splitlines()[0][:200],
            remedy="save plain arrays: np.savez(path, inputs=x, targets=y)",
        ) from error
    raise LoadError(
        "CT021",
        f"{path} has no data format known here",
        expected=", ".join(_SUFFIXES),
        received=path.suffix or "no suffix",
        remedy="np.savez('data.npz', inputs=x, targets=y), or a factory: --data package.module:callable",
    )


def _tensor(array: np.ndarray, name: str) -> torch.Tensor:
    if array.dtype.kind not in "fiub":
        raise LoadError(
            "CT021",
            f"the array {name!r} holds no numbers",
            expected="floats, integers or booleans",
            received=str(array.dtype),
            remedy="encode it as numbers",
        )
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return torch.from_numpy(array if array.ndim else array.reshape(1))


def numbers_in(value: Any) -> Any:
    """The numbers in the file that a setting names (.npy, .json); any other value as it is.

    Raises:
        LoadError: CT021, no such numbers in it.
    """
    path = Path(value) if isinstance(value, str) else None
    if path is None or path.suffix not in {".npy", ".json"}:
        return value
    if path.suffix == ".npy":
        return _array(path)
    try:
        return torch.tensor(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RuntimeError, RecursionError) as error:
        raise LoadError(
            "CT021",
            f"{path} holds no numbers",
            expected="a list of numbers as JSON, or a .npy file",
            received=str(error).splitlines()[0][:200],
            remedy="-L class_weights=[1,2,…]",
        ) from error


def describe(path: Path) -> Sequence[tuple[str, tuple[int, ...], str]]:
    """Names, shapes and dtypes of the arrays in a data file."""
    content = _read(path)
    return [
        (name or path.name, tuple(t.shape), str(t.dtype).removeprefix("torch.")) for name, t in named_tensors(content)
    ]
