"""Data by path: says what kind of source a file or folder is, and reads it; nothing in it is executed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from curvtool.errors import LoadError, suggest
from curvtool.problem.checkpoints.limits import require_regular
from curvtool.problem.data import Data
from curvtool.problem.sources import arrays, images, tables, text, tokens
from curvtool.problem.sources.objects import INPUT_KEYS, TARGET_KEYS, from_mapping, from_object
from curvtool.problem.sources.reading import Reading
from curvtool.problem.tree import num_bytes

_TOKEN_SUFFIXES = {".bin", ".tokens"}
_TOLD_BYTES = 2**30
SUFFIXES = (*arrays.SUFFIXES, *sorted(_TOKEN_SUFFIXES | tables.SUFFIXES), ".txt")


def from_path(source: str, reading: Reading | None = None) -> Data:
    """Data from a file, a pair `x.npy,y.npy`, or a folder.

    Arrays (.npz, .npy, .safetensors, .pt), tokens (.bin), tables (.parquet, .csv, .tsv, .json, .jsonl, .arrow), text
    (.txt); a folder of one of the first, of images, or as `datasets` saves it.

    Args:
        source: the path.
        reading: what is said of it.

    Raises:
        LoadError: CT020 not there, CT021 not data or keys not found; and those of each kind's reader.
    """
    reading = reading or Reading()
    if "," in source and not _exists(source):
        paths = [Path(part.strip()) for part in source.split(",")]
        if len(paths) != 2:
            raise LoadError(
                "CT021",
                "a pair of files is two",
                expected="inputs.npy,targets.npy",
                received=source,
                remedy="two paths",
            )
        return _subset(Data(_array(paths[0]), _array(paths[1]), mapped=True), reading)
    path = Path(source)
    _require_there(path)
    if path.is_dir():
        return _from_folder(path, reading)
    if path.suffix in _TOKEN_SUFFIXES:
        return _subset(tokens.read_tokens(path, reading), reading)
    if path.suffix in tables.SUFFIXES:
        return tables.read_table(path, reading)
    if path.suffix == ".txt":
        return text.read_text(path, reading)
    if path.suffix not in arrays.SUFFIXES:
        raise LoadError(
            "CT021",
            f"{str(path)[:300]} has no data format known here",
            expected=", ".join(SUFFIXES),
            received=path.suffix[:30] or "no suffix",
            remedy="np.savez('data.npz', inputs=x, targets=y), or a factory: --data package.module:callable",
        )
    return _subset(_from_arrays(path, reading), reading)


def _subset(data: Data, reading: Reading) -> Data:
    size = num_bytes((data.inputs, data.targets))
    if data.mapped and size > _TOLD_BYTES:
        told = f"{size / 2**30:.1f} GiB mapped, not read: its pages count to the peak, and are given back when needed"
        data = replace(data, notes=(*data.notes, told))
    return data.subset(reading.num_samples, reading.subset_seed)


def _exists(source: str) -> bool:
    try:
        return Path(source).exists()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _require_there(path: Path) -> None:
    if _exists(str(path)):
        return
    try:
        near = sorted(p.name for p in path.parent.glob("*") if p.suffix in SUFFIXES) if path.parent.is_dir() else []
    except (OSError, ValueError):
        near = []
    raise LoadError(
        "CT020",
        f"the data {str(path)[:300]} do not exist",
        expected="a file or folder, or package.module:callable",
        received="no such path",
        remedy=suggest(path.name, near) if near else "check the path",
    )


def _from_arrays(path: Path, reading: Reading) -> Data:
    content, mapped = arrays.read_arrays(path)
    if isinstance(content, torch.Tensor):  # x.npy: its targets stand beside it under a usual name
        if path.stem in INPUT_KEYS:
            beside = [path.with_name(f"{name}.npy") for name in TARGET_KEYS]
            found = next((p for p in beside if p.exists()), None)
            if found is not None:
                return Data(content, _array(found), (f"targets from {found.name}",), mapped=mapped)
        return Data(content, mapped=mapped)
    if isinstance(content, Mapping):
        return replace(from_mapping(content, reading.input_key, reading.target_key), mapped=mapped)
    return from_object(content, input_key=reading.input_key, target_key=reading.target_key)


def _from_folder(path: Path, reading: Reading) -> Data:
    if tables.is_saved_dataset(path):
        return tables.read_table(path, reading)
    found = {p.stem: p for p in sorted(path.glob("*.npy"))}
    if any(key in found for key in (reading.input_key, *INPUT_KEYS)):
        content = {name: _array(p) for name, p in found.items()}
        data = from_mapping(content, reading.input_key, reading.target_key)
        return _subset(replace(data, mapped=True), reading)
    files = [p for p in sorted(path.iterdir()) if p.suffix in SUFFIXES and p.suffix not in {".npy", ".json"}]
    if len(files) == 1:
        return from_path(str(files[0]), reading)
    if not files and images.image_files(path):
        return images.read_images(path, reading)
    raise LoadError(
        "CT021",
        f"cannot tell which file in {path} holds the data",
        expected="inputs.npy and targets.npy, one data file, images, or a folder of save_to_disk",
        received=", ".join(p.name for p in sorted(path.iterdir())[:8]) or "an empty folder",
        remedy=f"--data {files[0]}" if files else "name the file",
    )


def _array(path: Path) -> torch.Tensor:
    _require_there(path)
    content = arrays.read_arrays(path)[0] if path.suffix in arrays.SUFFIXES else None
    if not isinstance(content, torch.Tensor):
        raise LoadError(
            "CT021",
            f"{path} is not one array",
            expected="a .npy file",
            received=path.suffix,
            remedy="--data FILE.npz",
        )
    return content


def numbers_in(value: Any) -> Any:
    """The numbers in the file that a setting names (.npy, .json); any other value as it is.

    Raises:
        LoadError: CT020 no such file, CT021 no such numbers in it.
    """
    path = Path(value) if isinstance(value, str) else None
    if path is None or path.suffix not in {".npy", ".json"}:
        return value
    if path.suffix == ".npy":
        return _array(path)
    _require_there(path)
    try:
        require_regular(path)
        return torch.tensor(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RuntimeError, RecursionError) as error:
        raise LoadError(
            "CT021",
            f"{path} holds no numbers",
            expected="a list of numbers as JSON, or a .npy file",
            received=str(error).splitlines()[0][:200],
            remedy="-L class_weights=[1,2,…]",
        ) from error
