"""Sniffing: says what a file or a folder is without executing any of it."""

from __future__ import annotations

import hashlib
import pickletools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from curvtool.errors import LoadError, suggest
from curvtool.problem.checkpoints.limits import archive_names, read_json, require_regular

LEGACY_MAGIC = bytes.fromhex("80028a0a6cfc9c")
_NOT_A_MODEL = {
    b"PAR1": "a Parquet table",
    b"ARROW1": "an Arrow table",
    b"GGUF": "a GGUF model (quantised, for inference only)",
    b"\x93NUMPY": "a NumPy array (data, not weights)",
    b"\x89HDF": "an HDF5 file (Keras?)",
    b"\x1f\x8b": "a gzip archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ": "an xz archive",
    b"(\xb5/\xfd": "a zstd archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"\x7fELF": "a program",
    b"%PDF": "a PDF document",
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
    b"version https://git-lfs": "a Git LFS pointer (git lfs pull fetches the file itself)",
    b"<!DOCTYPE": "a web page (the download asked for a login?)",
    b"<html": "a web page (the download asked for a login?)",
}
_ENDINGS = {".pt", ".pth", ".pkl", ".bin", ".safetensors", ".ckpt", ".pt2"}
INDEX_NAMES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
WEIGHT_NAMES = ("model.safetensors", "pytorch_model.bin")
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


@dataclass(frozen=True)
class FileKind:
    """What a file is: a short `format` name, a description, and whether reading it executes nothing."""

    format: str
    description: str
    safe: bool
    loadable: bool


def sniff(path: Path) -> FileKind:
    """What the file or folder is, from its first bytes and its list of names; nothing in it is executed.

    Raises:
        LoadError: CT010 it does not exist; CT011 it is empty, no file, or a folder without a checkpoint in it.
    """
    _require_there(path)
    if path.is_dir():
        return _sniff_folder(path)
    require_regular(path)
    try:
        with path.open("rb") as file:
            head = file.read(32)
    except OSError as error:
        raise LoadError(
            "CT010",
            f"{path} cannot be read",
            expected="a checkpoint file that may be read",
            received=error.strerror or str(error),
            remedy=f"ls -l {path}",
        ) from error
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
    if head[:1] == b"\x80" and head[1:2] and head[1] in range(2, 6):
        return FileKind("pickle", "a bare pickle (not written by torch.save)", False, False)
    return FileKind("unknown", "no checkpoint format known here", True, False)


def _sniff_folder(path: Path) -> FileKind:
    names = {item.name for item in path.iterdir()}
    if "adapter_config.json" in names:
        return FileKind("peft", "a PEFT adapter (its base model is another folder)", True, True)
    if ".metadata" in names and any(name.endswith(".distcp") for name in names):
        return FileKind("distributed", "a torch distributed checkpoint", True, True)
    has_weights = bool(names & {*INDEX_NAMES, *WEIGHT_NAMES})
    if "config.json" in names and has_weights:
        config = read_json(path / "config.json")
        if isinstance(config, dict) and "architecture" in config and "model_type" not in config:
            return FileKind("timm", "a timm folder", True, True)
        return FileKind("huggingface", "a Hugging Face folder", True, True)
    if names & {*INDEX_NAMES}:
        return FileKind("sharded", "weights in shards, with their index", True, True)
    inside = checkpoints_in(path)
    raise LoadError(
        "CT011",
        f"{path} is a folder",
        expected="a checkpoint file, or a folder with config.json and weights, with shards or with .metadata",
        received="folder with " + (", ".join(inside[:5]) or "no checkpoint in it"),
        remedy=f"curvtool inspect {path / inside[0]}" if inside else "name the file",
    )


def _require_there(path: Path) -> None:
    try:
        if path.exists():
            return
        is_loop = path.is_symlink()
    except (OSError, ValueError):  # a loop of links, a name that is too long or holds a null
        is_loop = True
    if is_loop:
        raise LoadError(
            "CT010",
            f"{str(path)[:200]} leads nowhere",
            expected="a checkpoint file",
            received="a symbolic link to nothing or to itself, or a name that no file can have",
            remedy="copy the file itself",
        )
    folder = path.parent
    near = checkpoints_in(folder) if folder.is_dir() else []
    raise LoadError(
        "CT010",
        f"{path} does not exist",
        expected="a checkpoint file",
        received="no such file",
        remedy=suggest(path.name, near)
        if near
        else f"check the path: {folder.absolute()} holds no checkpoint"
        if folder.is_dir()
        else f"the folder {folder} does not exist either",
    )


def checkpoints_in(folder: Path) -> list[str]:
    """Names of the files that look like checkpoints."""
    return sorted(path.name for path in folder.iterdir() if path.suffix in _ENDINGS)


def _sniff_zip(path: Path) -> FileKind:
    names = archive_names(path)
    if names is None:
        return FileKind("broken-zip", "a torn zip archive (an interrupted save or copy?)", True, False)
    inner = {name.partition("/")[2] if "/" in name else name for name in names}
    if "constants.pkl" in inner or any(name.startswith("code/") for name in {*inner, *names}):
        return FileKind("torchscript", "a TorchScript archive (its code runs when it is loaded)", False, True)
    if "archive_format" in inner or "serialized_exported_program.json" in inner:
        return FileKind("torch-export", "a torch.export archive (loading it can run code)", False, True)
    if "data.pkl" in inner:
        return FileKind("torch-zip", "a torch.save file", True, True)
    if any(name.endswith(".npy") for name in names):
        return FileKind("npz", "a NumPy archive (data, not weights)", True, False)
    if "config.json" in inner and any(name.endswith(".h5") for name in inner):
        return FileKind("zip", "a Keras archive", True, False)
    return FileKind("zip", "a zip archive without a checkpoint in it", True, False)


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
                words: list[str] = []
                for opcode, argument, _ in pickletools.genops(file):
                    if opcode.name in {"SHORT_BINUNICODE", "BINUNICODE", "UNICODE"}:
                        words = [*words[-1:], str(argument)[:200]]
                    reference = " ".join(words) if opcode.name == "STACK_GLOBAL" else str(argument)
                    if opcode.name in {"GLOBAL", "STACK_GLOBAL"} and not reference.startswith(known):
                        found.add(reference.replace(" ", ".")[:200])
            except Exception:
                break
    return sorted(found)


def content_files(path: Path) -> list[Path]:
    """What makes a checkpoint: the file, or a folder's configuration and weights."""
    if not path.is_dir():
        return [path]
    endings = {*_ENDINGS, ".json", ".distcp", ".metadata"}
    return sorted(p for p in path.iterdir() if p.is_file() and (p.suffix in endings or p.name == ".metadata"))


def sha256(path: Path) -> str:
    """SHA-256 in hexadecimal: of the file, or over the names and digests of a folder's files."""
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    return _of_all((item.name, sha256(item)) for item in content_files(path))


def _of_all(digests: Iterable[tuple[str, str]]) -> str:
    whole = hashlib.sha256()
    for name, digest in digests:
        whole.update(f"{name}|{digest}\n".encode())
    return whole.hexdigest()
