"""What a file or a folder is and holds, found out without executing it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from shlex import quote
from typing import Any, Literal

import torch

from curvtool.errors import LoadError
from curvtool.problem.checkpoints import adapters, distributed, inert, limits, scripted, sharded, sniff
from curvtool.problem.checkpoints.safetensors_header import read_header
from curvtool.problem.checkpoints.state_dict import state_dict
from curvtool.problem.nearby_code import flags_here
from curvtool.problem.sources import arrays
from curvtool.problem.sources.looks import Look, look_at
from curvtool.problem.sources.objects import INPUT_KEYS, TARGET_KEYS
from curvtool.report.model import Inspection, TensorEntry

Role = Literal["checkpoint", "data", "unknown"]
_FLOATING = ("float", "bfloat", "f8_", "f16", "f32", "f64", "bf16")


@dataclass
class _Found:
    """What was read off a file: its tensors, the key they stand under, other keys, and what it would import."""

    tensors: list[TensorEntry] = field(default_factory=list)
    under: str | None = None
    others: list[str] = field(default_factory=list)
    imports: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    eigenvectors: bool = False


def inspect_file(path: Path) -> Inspection:
    """The format, tensors and imports of a checkpoint or a data file; nothing in it is executed.

    Raises:
        LoadError: CT010 not there, CT011 torn.
    """
    try:
        kind = sniff.sniff(path)
        look = None if kind.loadable or kind.format == "npz" else look_at(path)
    except LoadError:
        look = look_at(path)
        if look is None:
            raise
    if look is not None:
        return _of_data(path, look)
    role: Role = "unknown"
    if kind.format == "npz" or path.suffix in {".npy", ".npz"}:
        role = "data"
        entries = [TensorEntry(name=n, shape=list(s), dtype=d) for n, s, d in arrays.describe(path)]
        found = _Found(entries)
    elif kind.loadable:
        role = "checkpoint"
        found = _look(path, kind)
    else:
        found = _Found(imports=sniff.unsafe_globals(path) if kind.format == "pickle" else [])
    tensors = found.tensors
    if role == "checkpoint" and tensors and {t.name for t in tensors} & {*INPUT_KEYS} and len(tensors) <= 4:
        role = "data"
    floating = [t for t in tensors if t.dtype.lower().startswith(_FLOATING)]
    reasons = {}
    if role != "checkpoint" or not tensors:
        reasons["num_params"] = "no weights were read"
    if found.under is None:
        reasons["weights_under"] = "no weights were read"
    return Inspection(
        path=str(path),
        format=kind.format,
        description=kind.description,
        safe=kind.safe and not found.imports,
        size_bytes=sum(file.stat().st_size for file in sniff.content_files(path)),
        role=role,
        weights_under=found.under,
        other_keys=found.others,
        num_params=None if "num_params" in reasons else sum(prod(t.shape) for t in floating),
        tensors=tensors,
        would_import=found.imports,
        notes=found.notes,
        next_command=_next_command(path, kind, role, found),
        unavailable=reasons,
    )


def _of_data(path: Path, look: Look) -> Inspection:
    reason = "data that are not read here"
    return Inspection(
        path=str(path),
        format=look.format,
        description=look.description,
        safe=True,
        size_bytes=path.stat().st_size,
        role="data",
        weights_under=None,
        other_keys=[],
        num_params=None,
        tensors=[],
        would_import=[],
        notes=look.notes,
        next_command=f"curvtool eigs MODEL --factory {flags_here()[0]} --data {quote(str(path))}{look.flags}",
        unavailable={"num_params": reason, "weights_under": reason},
    )


def _look(path: Path, kind: sniff.FileKind) -> _Found:
    match kind.format:
        case "safetensors":
            header, metadata = read_header(path)
            entries = [TensorEntry(name=n, shape=list(e.shape), dtype=e.dtype) for n, e in header.items()]
            return _Found(entries, under="", eigenvectors="eigenvectors" in metadata.get("what", ""))
        case "torch-export":
            return _Found(_entries(scripted.exported_tensors(path)), under="")
        case "torchscript":
            content, _ = inert.look_into(path, is_zip=True)
            return _Found(_entries(dict(inert.tensors_in(content))), under="")
        case "distributed":
            return _of_content(distributed.lazy_content(path), [])
        case "sharded" | "huggingface" | "timm":
            return _of_folder(path, kind.format)
        case "peft":
            base = adapters.base_of(path)
            file = next((path / name for name in sniff.ADAPTER_WEIGHTS if (path / name).is_file()), None)
            found = _look(file, sniff.sniff(file)) if file is not None else _Found()
            found.notes.append(f"base model: {base or 'not named'}")
            return found
    content, _ = inert.look_into(path, kind.format == "torch-zip")
    return _of_content(content, sniff.unsafe_globals(path))


def _of_folder(path: Path, format: str) -> _Found:
    found = _Found(under="")
    for file in sharded.weight_files(path):
        one = _look(file, sniff.sniff(file))
        found.tensors += one.tensors
        found.imports += [name for name in one.imports if name not in found.imports]
    if format == "sharded":
        return found
    config = limits.read_json(path / "config.json")
    if isinstance(config, dict):
        names = config.get("architectures") or config.get("architecture") or config.get("model_type")
        found.notes.append(f"architecture: {', '.join(map(str, names)) if isinstance(names, list) else names}")
        if config.get("auto_map"):
            found.notes.append("it brings code of its own (auto_map), which runs only with --trust-remote-code")
        if config.get("quantization_config"):
            found.notes.append("its weights are quantised, and cannot be differentiated by")
    return found


def _of_content(content: Any, imports: list[str]) -> _Found:
    """Of a state dict or training dictionary; of any other object the tensors that are in it."""
    try:
        weights, under = state_dict(content)
    except LoadError:
        weights, under = dict(inert.tensors_in(content)), ""
        return _Found(_entries(weights), under=under if weights else None, imports=imports)
    others = [str(key)[:200] for key in content if key != under] if under else []
    return _Found(_entries(weights), under, others, imports)


def _entries(tensors: Mapping[str, Any]) -> list[TensorEntry]:
    return [
        TensorEntry(name=name, shape=list(tensor.shape), dtype=str(tensor.dtype).removeprefix("torch."))
        for name, tensor in tensors.items()
        if isinstance(tensor, (torch.Tensor, distributed.LazyTensor))
    ]


def _next_command(path: Path, kind: sniff.FileKind, role: Role, found: _Found) -> str:
    if role == "data":
        names = {tensor.name for tensor in found.tensors}
        keys = "" if path.suffix == ".npy" else "".join(
            f" --{flag} NAME" for flag, usual in (("input-key", INPUT_KEYS), ("target-key", TARGET_KEYS))
            if not names & {*usual}
        )  # fmt: skip
        return f"curvtool eigs MODEL --factory {flags_here()[0]} --data {quote(str(path))}{keys}"
    commands = sniff.commands_among(found.imports)
    if commands:
        return f"do not load it: {commands[0]} has no place in a checkpoint"
    if found.eigenvectors:
        return f"curvtool eigs MODEL --factory module:Net --data DATA --start {quote(str(path))}   (or --deflate)"
    if kind.format in {"torchscript", "torch-export"}:
        return f"curvtool eigs {quote(str(path))} --trust --data DATA   (only if you trust whoever made the file)"
    if kind.format in {"huggingface", "timm", "peft"}:
        remote = any("auto_map" in note for note in found.notes)
        return f"curvtool eigs {quote(str(path))} --data DATA" + (
            "   (--trust-remote-code, once you read its code)" if remote else ""
        )
    if found.imports and role == "checkpoint":
        return f"curvtool eigs {quote(str(path))} --trust --data DATA   (only if you trust whoever made the file)"
    if role == "checkpoint" and found.tensors:
        ema = " --weights ema" if any("ema" in key.lower() for key in found.others) else ""
        told = f"   ({ema.strip()} for the averaged weights)" if ema else ""
        factory, data = flags_here()
        return f"curvtool eigs {quote(str(path))} --factory {factory} --data {data}{told}"
    if found.imports:
        return "torch.save(model.state_dict(), path), where it was made: a bare pickle is not read"
    return "not a checkpoint or data file that curvtool reads"
