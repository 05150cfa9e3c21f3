"""Weights that lie in a folder, in one file or in shards that an index names, as Hugging Face writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from curvtool.errors import LoadError
from curvtool.problem.checkpoints.limits import inner_name, read_json, torn
from curvtool.problem.checkpoints.sniff import INDEX_NAMES, WEIGHT_NAMES
from curvtool.words import counted


def weight_files(folder: Path) -> list[Path]:
    """The files with the weights, in order: safetensors where there are any.

    Raises:
        LoadError: CT011, an index that names files elsewhere or that are not there; none at all.
    """
    for index, single in zip(INDEX_NAMES, WEIGHT_NAMES, strict=True):
        if (folder / single).exists():
            return [folder / single]
        if not (folder / index).exists():
            continue
        content = read_json(folder / index)
        names = content.get("weight_map") if isinstance(content, dict) else None
        if not isinstance(names, dict) or not names:
            raise torn(folder / index, ValueError("no weight_map in it"))
        files = [inner_name(folder / index, name) for name in dict.fromkeys(map(_hashable, names.values()))]
        missing = [file.name for file in files if not file.exists()]
        if missing:
            raise LoadError(
                "CT011",
                f"shards are missing in {folder}",
                expected=f"{counted(len(files), 'file')} that {index} names",
                received=f"no {', '.join(missing[:3])}",
                remedy="copy the whole folder again",
            )
        return sorted(files)
    raise LoadError(
        "CT011",
        f"{folder} holds no weights",
        expected=" or ".join((*WEIGHT_NAMES, *INDEX_NAMES)),
        received=", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "an empty folder",
        remedy="copy the whole folder",
    )


def _hashable(name: Any) -> Any:
    return name if isinstance(name, str) else repr(name)


def read_folder(folder: Path, trust: bool) -> dict[str, torch.Tensor]:
    """The tensors of all shards by name.

    Raises:
        LoadError: CT011, shards that are missing, torn or no state dicts; and those of `read`.
    """
    from curvtool.problem.checkpoints.read import read
    from curvtool.problem.checkpoints.state_dict import state_dict

    found: dict[str, torch.Tensor] = {}
    for file in weight_files(folder):
        found |= state_dict(read(file, trust=trust))[0]
    return found
