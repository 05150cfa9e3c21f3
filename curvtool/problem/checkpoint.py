"""Checkpoints: says what a file is without executing any of it, then loads its weights safely.

A pickle can run any code when it is loaded, so torch files are read with `weights_only=True` alone; only `trust=True`,
which the user has to give, lifts that.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from curvtool.errors import LoadError, suggest

LEGACY_MAGIC = bytes.fromhex("80028a0a6cfc9c")
_MODEL_KEYS = ("state_dict", "model_state_dict", "model", "module", "net", "network", "weights", "params")
_EMA_KEYS = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
_PREFIXES = ("module.", "_orig_mod.", "model.")
_NOT_A_MODEL = {
    b"PAR1": "a Parquet table",
    b"ARROW1": "an Arrow table",
    b"GGUF": "a GGUF model (quantised, for inference only)",
    b"\x93NUMPY": "a NumPy array (data, not weights)",
    b"\x89HDF": "an HDF5 file",
    b"\x1f\x8b": "a gzip archive",
    b"\x7fELF": "a program",
}


@dataclass(frozen=True)
class FileKind:
    """What a file is: a short `format` name, a description, and whether reading it executes nothing."""

    format: str
    description: str
    safe: bool
    loadable: bool


def sniff(path: Path) -> FileKind:
    """What the file is, from its first bytes and (for archives) its list of names; nothing in it is executed.

    Raises:
        LoadError: CT010, the file does not exist, is empty or is a folder.
    """
    _require_file(path)
    with path.open("rb") as file:
        head = file.read(16)
    if not head:
        raise LoadError(
            "CT011",
            f"{path} is empty",
            expected="a checkpoint",
            received="0 bytes",
            remedy="was the disk full when it was saved?",
        )
    if head[:4] == b"PK\x03\x04":
        return _sniff_zip(path)
    if head[: len(LEGACY_MAGIC)] == LEGACY_MAGIC:
        return FileKind("torch-legacy", "a torch.save file in the legacy (before 1.6) format", True, True)
    if len(head) >= 9 and head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") < path.stat().st_size:
        return FileKind("safetensors", "a safetensors file", True, True)
    for magic, description in _NOT_A_MODEL.items():
        if head.startswith(magic):
            return FileKind("other", description, True, False)
    if head[:1] == b"\x80" and head[1] in range(2, 6):
        return FileKind("pickle", "a bare pickle (not written by torch.save)", False, False)
    return FileKind("unknown", "no checkpoint format known here", True, False)


def _require_file(path: Path) -> None:
    if path.is_dir():
        inside = sorted(p.name for p in path.iterdir() if p.suffix in {".pt", ".pth", ".pkl", ".safetensors", ".ckpt"})
        raise LoadError(
            "CT011",
            f"{path} is a folder",
            expected="a checkpoint file",
            received="folder with " + (", ".join(inside[:5]) or "no checkpoint in it"),
            remedy=f"curvtool inspect {path / inside[0]}" if inside else "name the file",
        )
    if not path.exists():
        near = sorted(p.name for p in path.parent.glob("*")) if path.parent.is_dir() else []
        raise LoadError(
            "CT010",
            f"{path} does not exist",
            expected="a checkpoint file",
            received="no such file",
            remedy=suggest(path.name, near[:12]) if near else f"the folder {path.parent} does not exist either",
        )


def _sniff_zip(path: Path) -> FileKind:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError):
        return FileKind("broken-zip", "a torn zip archive (an interrupted save or copy?)", True, False)
    inner = {name.split("/", 1)[1] if "/" in name else name for name in names}
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        return FileKind("torchscript", "a TorchScript archive (its code runs when it is loaded)", False, False)
    if "archive_format" in inner:
        return FileKind("torch-export", "a torch.export archive (loading it can run code)", False, False)
    if "data.pkl" in inner:
        return FileKind("torch-zip", "a torch.save file", True, True)
    if any(name.endswith(".npy") for name in names):
        return FileKind("npz", "a NumPy archive (data, not weights)", True, False)
    return FileKind("zip", "a zip archive without a checkpoint in it", True, False)


def read(path: Path, *, trust: bool = False) -> Any:
    """The file's content on the CPU: a mapping of tensors, a training dictionary, or (trusted) a whole module.

    Raises:
        LoadError: CT010 not there, CT011 not a checkpoint or torn, CT015 holds objects that would run code.
    """
    kind = sniff(path)
    if kind.format in {"torchscript", "torch-export"}:
        raise LoadError(
            "CT015",
            f"{path} is {kind.description}",
            expected="a state dict (torch.save or safetensors)",
            received=kind.format,
            remedy="save model.state_dict() of the original module and name its class with --factory",
        )
    if not kind.loadable:
        remedy = (
            "pass it as --data" if kind.format == "npz" or "NumPy" in kind.description else f"curvtool inspect {path}"
        )
        raise LoadError(
            "CT011",
            f"{path} is not a checkpoint: it is {kind.description}",
            expected="a torch.save file or safetensors",
            received=kind.format,
            remedy=remedy,
        )
    if kind.format == "safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, ValueError, KeyError) as error:
            raise _torn(path, error) from error
    return _torch_load(path, trust)


def _torch_load(path: Path, trust: bool) -> Any:
    try:
        with torch.serialization.safe_globals(_harmless_globals()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "weights_only" not in str(error) and "Unsupported" not in str(error) and "GLOBAL" not in str(error):
            raise _torn(path, error) from error
        if not trust:
            would_import = unsafe_globals(path)
            raise LoadError(
                "CT015",
                f"{path} holds more than tensors, and loading it would run code",
                expected="a state dict",
                received="objects of " + (", ".join(would_import[:6]) or "unknown classes"),
                remedy="save model.state_dict() instead; or, if you trust whoever made the file, add --trust",
            ) from None
    except Exception as error:  # a torn file fails in the unpickler in any way
        raise _torn(path, error) from error
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # trusted code may fail in any way
        raise LoadError(
            "CT015",
            f"{path} cannot be unpickled, even trusted",
            expected="its classes to be importable",
            received=f"{type(error).__name__}: {error}",
            remedy="run from the folder that holds the module's code",
        ) from error


def _torn(path: Path, error: Exception) -> LoadError:
    first_line = (str(error).splitlines() or [type(error).__name__])[0]
    return LoadError(
        "CT011",
        f"{path} cannot be read as a checkpoint",
        expected="a whole file",
        received=first_line[:200],
        remedy="copy it again, and compare its size and checksum with the original's",
    )


def _harmless_globals() -> list[Any]:
    """Plain data classes that training scripts leave in their checkpoints; none of them runs code when rebuilt."""
    scalar = np.float64(0).__reduce__()[0]
    dtypes = [type(np.dtype(name)) for name in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "bool")]
    return [argparse.Namespace, OrderedDict, scalar, np.dtype, *dtypes]


def unsafe_globals(path: Path) -> list[str]:
    """What loading the file without `weights_only` would import, by name; the file is not executed."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # legacy format or torn file: torch's scan reads the zip format only
        return _globals_of_pickle(path)


def _globals_of_pickle(path: Path) -> list[str]:
    """The GLOBAL opcodes of the pickles at the start of a legacy file."""
    import pickletools

    known = ("torch.", "torch ", "collections ", "numpy")
    found: set[str] = set()
    with path.open("rb") as file:
        for _ in range(4):  # magic, protocol, system information, content
            try:
                for opcode, argument, _ in pickletools.genops(file):
                    if opcode.name == "GLOBAL" and not str(argument).startswith(known):
                        found.add(str(argument).replace(" ", "."))
            except Exception:
                break
    return sorted(found)


def state_dict(content: Any, weights: str = "auto") -> tuple[dict[str, torch.Tensor], str]:
    """The tensors by name in what `read` returned, and the key they stood under (empty: at the top).

    Args:
        content: a state dict, or a training checkpoint that holds one.
        weights: `model`, `ema`, or `auto` (the model's own, EMA weights where there are no others).

    Raises:
        LoadError: CT011, no tensors by name are found; CT017, the weights asked for are not in it.
    """
    if not isinstance(content, Mapping):
        raise LoadError(
            "CT011",
            "the checkpoint holds no state dict",
            expected="tensors by name",
            received=type(content).__name__,
            remedy="torch.save(model.state_dict(), path)",
        )
    candidates = {"": content} if _is_state_dict(content) else {}
    ema: dict[str, Any] = {}
    for key in (*_MODEL_KEYS, *_EMA_KEYS):
        inner = content.get(key)
        if isinstance(inner, nn.Module):
            inner = inner.state_dict()
        if isinstance(inner, Mapping) and _is_state_dict(inner):
            (ema if key in _EMA_KEYS else candidates)[key] = inner
    wanted = {"model": candidates, "ema": ema, "auto": candidates or ema}[weights]
    if not wanted:
        held = ", ".join(str(k) for k in list(content)[:8]) or "nothing"
        if candidates or ema:
            raise LoadError(
                "CT017",
                f"the checkpoint has no {weights} weights",
                expected=f"--weights {weights}",
                received=f"weights under {', '.join(map(repr, candidates or ema))}",
                remedy=f"--weights {'ema' if ema else 'model'}",
            )
        raise LoadError(
            "CT011",
            "no weights are found in the checkpoint",
            expected=f"tensors by name, at the top or under {', '.join(_MODEL_KEYS[:4])}",
            received=f"a dictionary with {held}",
            remedy="torch.save(model.state_dict(), path)",
        )
    key, found = next(iter(wanted.items()))
    return {str(name): tensor for name, tensor in found.items() if isinstance(tensor, torch.Tensor)}, key


def _is_state_dict(content: Mapping[Any, Any]) -> bool:
    values = list(content.values())
    return (
        bool(values)
        and all(isinstance(key, str) for key in content)
        and (sum(isinstance(value, torch.Tensor) for value in values) * 2 > len(values))
    )


def fit(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> str:
    """Loads the weights into the model, strictly, after stripping wrappers' prefixes where that makes the keys fit.

    Returns:
        The prefix that was stripped, empty for none.

    Raises:
        LoadError: CT014, with what is missing, what is unexpected and which shapes differ.
    """
    own = model.state_dict()
    best = min(_strippings(weights), key=lambda pair: len(set(own) ^ set(pair[1])))
    prefix, stripped = best
    # counters that older checkpoints lack, and that evaluation mode does not use
    missing = [name for name in own if name not in stripped and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in stripped if name not in own]
    shapes = [
        f"{name}: the model has {tuple(own[name].shape)}, the file {tuple(stripped[name].shape)}"
        for name in own
        if name in stripped and own[name].shape != stripped[name].shape
    ]
    if missing or unexpected or shapes:
        parts = []
        for label, names in (("missing", missing), ("unexpected", unexpected), ("shape", shapes)):
            if names:
                more = f" and {len(names) - 5} more" if len(names) > 5 else ""
                parts.append(f"{label} ({len(names)}): {', '.join(names[:5])}{more}")
        raise LoadError(
            "CT014",
            "the checkpoint's keys do not fit the model",
            expected=f"{len(own)} tensors as {next(iter(own), '')}",
            received="; ".join(parts),
            remedy="check --factory and its -K arguments (classes, width); curvtool inspect lists the file's keys",
        )
    bad = [
        name for name, tensor in stripped.items() if tensor.is_floating_point() and not bool(tensor.isfinite().all())
    ]
    if bad:
        raise LoadError(
            "CT025",
            f"the weights hold NaN or infinity in {bad[0]}",
            expected="finite weights",
            received=f"{len(bad)} tensors that are not finite",
            remedy="use an earlier checkpoint",
        )
    model.load_state_dict(stripped, strict=False)
    return prefix


def _strippings(weights: Mapping[str, torch.Tensor]) -> list[tuple[str, dict[str, torch.Tensor]]]:
    """The weights as they are and with each chain of common wrapper prefixes taken off."""
    current, prefix = dict(weights), ""
    ways = [(prefix, current)]
    while True:
        found = next((p for p in _PREFIXES if current and all(name.startswith(p) for name in current)), None)
        if found is None:
            # a Lightning checkpoint may hold metrics beside "model.": keep what stands under the prefix
            inner = {name.removeprefix("model."): t for name, t in current.items() if name.startswith("model.")}
            return [*ways, (prefix + "model.", inner)] if inner else ways
        current, prefix = {name.removeprefix(found): t for name, t in current.items()}, prefix + found
        ways.append((prefix, current))


def load_model(
    path: Path, model: nn.Module | None, *, weights: str = "auto", trust: bool = False
) -> tuple[nn.Module, str]:
    """The model with the file's weights, and a line that says how they were found.

    Args:
        path: the checkpoint.
        model: the module made by the user's factory; None where the file must hold a whole module.

    Raises:
        LoadError: CT012, weights alone and no factory; and those of `read`, `state_dict` and `fit`.
    """
    content = read(path, trust=trust)
    if isinstance(content, nn.Module):
        return content, "a whole pickled module"
    if isinstance(content, Mapping) and model is None:
        for key in _MODEL_KEYS:
            if isinstance(content.get(key), nn.Module):
                return content[key], f"a whole pickled module under {key!r}"
    tensors, key = state_dict(content, weights)
    if model is None:
        raise LoadError(
            "CT012",
            f"{path} holds weights alone, not the model's code",
            expected="--factory package.module:callable",
            received=f"{len(tensors)} tensors, the first {next(iter(tensors))}",
            remedy=f"curvtool … {path} --factory models:Net   (Net in ./models.py; -K name=value)",
        )
    prefix = fit(model, tensors)
    return model, ", ".join(
        part for part in (f"under {key!r}" if key else "", f"prefix {prefix!r} stripped" if prefix else "") if part
    )


def sha256(path: Path) -> str:
    """SHA-256 of the file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def safetensors_entries(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Names, shapes and dtypes from a safetensors header, without reading the tensors."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > 100_000_000 or size > path.stat().st_size - 8:
            raise _torn(path, ValueError(f"a header of {size} bytes"))
        try:
            header = json.loads(file.read(size))
            return {
                name: (tuple(entry["shape"]), str(entry["dtype"]))
                for name, entry in header.items()
                if name != "__metadata__"
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _torn(path, error) from error
