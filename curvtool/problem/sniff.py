"""Sniffing: says what a file is and what is in it without executing any of it."""

from __future__ import annotations

import hashlib
import json
import pickletools
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch

from curvtool.errors import LoadError, suggest

LEGACY_MAGIC = bytes.fromhex("80028a0a6cfc9c")
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
        inside = _checkpoints_in(path)
        raise LoadError(
            "CT011",
            f"{path} is a folder",
            expected="a checkpoint file",
            received="folder with " + (", ".join(inside[:5]) or "no checkpoint in it"),
            remedy=f"curvtool inspect {path / inside[0]}" if inside else "name the file",
        )
    if not path.exists():
        near = _checkpoints_in(path.parent) if path.parent.is_dir() else []
        raise LoadError(
            "CT010",
            f"{path} does not exist",
            expected="a checkpoint file",
            received="no such file",
            remedy=suggest(path.name, near)
            if near
            else f"no checkpoint lies in {path.parent.absolute()}"
            if path.parent.is_dir()
            else f"the folder {path.parent} does not exist either",
        )


def _checkpoints_in(folder: Path) -> list[str]:
    """Names of the files that look like checkpoints."""
    endings = {".pt", ".pth", ".pkl", ".bin", ".safetensors", ".ckpt"}
    return sorted(path.name for path in folder.iterdir() if path.suffix in endings)


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


def safetensors_entries(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Names, shapes and dtypes from a safetensors header, without reading the tensors."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > 100_000_000 or size > path.stat().st_size - 8:
            raise torn(path, ValueError(f"a header of {size} bytes"))
        try:
            header = json.loads(file.read(size))
            held = max((e["data_offsets"][1] for name, e in header.items() if name != "__metadata__"), default=0)
            if path.stat().st_size != 8 + size + held:
                raise ValueError(f"{path.stat().st_size} bytes where the header foretells {8 + size + held}")
            return {
                name: (tuple(entry["shape"]), str(entry["dtype"]))
                for name, entry in header.items()
                if name != "__metadata__"
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise torn(path, error) from error


def safetensors_note(path: Path) -> str:
    """What the file's metadata says that it is, as curvtool writes it; empty where nothing."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return str(header.get("__metadata__", {}).get("what", ""))


def unsafe_globals(path: Path) -> list[str]:
    """What loading the file without `weights_only` would import, by name; the file is not executed."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # legacy format or torn file: torch's scan reads the zip format only
        return _globals_of_pickle(path)


_RUN_COMMANDS = {"posix", "nt", "os", "subprocess", "builtins", "sys", "shutil", "socket", "pty", "runpy"}


def commands_among(imports: list[str]) -> list[str]:
    """Those that run programs or touch the system, and have no place in a checkpoint."""
    return [name for name in imports if name.partition(".")[0] in _RUN_COMMANDS]


def _globals_of_pickle(path: Path) -> list[str]:
    """The GLOBAL opcodes of the pickles at the start of a legacy file."""
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


def sha256(path: Path) -> str:
    """SHA-256 of the file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def torn(path: Path, error: Exception) -> LoadError:
    """The error for a file that cannot be read to its end."""
    first_line = (str(error).splitlines() or [type(error).__name__])[0]
    return LoadError(
        "CT011",
        f"{path} cannot be read as a checkpoint",
        expected="a whole file",
        received=first_line[:200],
        remedy="copy it again, and compare its size and checksum with the original's",
    )
