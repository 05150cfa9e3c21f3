"""What a file is and holds, found out without executing it."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Literal

import torch

from curvtool.errors import LoadError
from curvtool.problem import checkpoint, data_files, sniff
from curvtool.problem.data import INPUT_KEYS, TARGET_KEYS
from curvtool.report.model import Inspection, TensorEntry

_DATA_FORMATS = {"npz", "other"}


def inspect_file(path: Path) -> Inspection:
    """The format, tensors and imports of a checkpoint or a data file.

    Raises:
        LoadError: CT010 not there, CT011 torn.
    """
    kind = sniff.sniff(path)
    tensors: list[TensorEntry] = []
    under: str | None = None
    others: list[str] = []
    imports: list[str] = []
    role: Literal["checkpoint", "data", "unknown"] = "unknown"
    if kind.format == "npz" or path.suffix in {".npy", ".npz"}:
        role = "data"
        tensors = [TensorEntry(name=n, shape=list(s), dtype=d) for n, s, d in data_files.describe(path)]
    elif kind.format == "safetensors":
        role = "checkpoint"
        under = ""
        entries = sniff.safetensors_entries(path)
        tensors = [TensorEntry(name=n, shape=list(s), dtype=d) for n, (s, d) in entries.items()]
    elif kind.loadable:
        role = "checkpoint"
        imports = sniff.unsafe_globals(path)
        try:
            content = checkpoint.read(path)
            weights, under = checkpoint.state_dict(content)
            tensors = [_entry(name, tensor) for name, tensor in weights.items()]
            if isinstance(content, Mapping) and under:
                others = [str(key) for key in content if key != under]
        except LoadError as error:
            if error.code not in {"CT015", "CT011"} or "cannot be read" in error.message:
                raise
    if role == "checkpoint" and tensors and {t.name for t in tensors} & {*INPUT_KEYS} and len(tensors) <= 4:
        role = "data"
    floating = [t for t in tensors if t.dtype.lower().startswith(("float", "bfloat", "f16", "f32", "f64", "bf16"))]
    reasons = {}
    if role != "checkpoint" or not tensors:
        reasons["num_params"] = "no weights were read"
    if under is None:
        reasons["weights_under"] = "no weights were read"
    return Inspection(
        path=str(path),
        format=kind.format,
        description=kind.description,
        safe=kind.safe and not imports,
        size_bytes=path.stat().st_size,
        role=role,
        weights_under=under,
        other_keys=others,
        num_params=None if "num_params" in reasons else sum(prod(t.shape) for t in floating),
        tensors=tensors,
        would_import=imports,
        next_command=_next_command(path, kind, role, tensors, imports, others),
        unavailable=reasons,
    )


def _entry(name: str, tensor: torch.Tensor) -> TensorEntry:
    return TensorEntry(name=name, shape=list(tensor.shape), dtype=str(tensor.dtype).removeprefix("torch."))


def _next_command(
    path: Path, kind: sniff.FileKind, role: str, tensors: list[TensorEntry], imports: list[str], others: list[str]
) -> str:
    if role == "data":
        names = {tensor.name for tensor in tensors}
        keys = "" if path.suffix == ".npy" else "".join(
            f" --{flag} NAME" for flag, usual in (("input-key", INPUT_KEYS), ("target-key", TARGET_KEYS))
            if not names & {*usual}
        )  # fmt: skip
        return f"curvtool eigs MODEL --factory module:Net --data {path}{keys}"
    if role == "checkpoint" and kind.format == "safetensors" and "eigenvectors" in sniff.safetensors_note(path):
        return f"curvtool eigs MODEL --factory module:Net --data DATA --start {path}   (or --deflate)"
    if role == "checkpoint" and tensors:
        ema = " --weights ema" if any("ema" in key.lower() for key in others) else ""
        told = f"   ({ema.strip()} for the averaged weights)" if ema else ""
        return f"curvtool eigs {path} --factory module:Net --data DATA{told}"
    if imports:
        commands = sniff.commands_among(imports)
        if commands:
            return f"do not load it: {commands[0]} has no place in a checkpoint"
        return f"curvtool eigs {path} --trust --data DATA   (only if you trust whoever made the file)"
    if kind.format in {"torchscript", "torch-export"}:
        return "save the state_dict() of the original module, and name its class with --factory"
    return "not a checkpoint or data file that curvtool reads"
