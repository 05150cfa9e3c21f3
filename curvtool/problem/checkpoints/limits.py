"""Bounds on what a file may claim: it is read only where its claims fit its size, so memory and time stay small."""

from __future__ import annotations

import json
import stat
import zipfile
from pathlib import Path
from typing import Any

from curvtool.errors import LoadError
from curvtool.words import counted

MAX_HEADER_BYTES = 32 * 2**20  # of JSON; the largest real headers take a few MiB
_MAX_ENTRIES = 1_000_000


def require_regular(path: Path) -> None:
    """Refuses what is no ordinary file: a pipe would block, and a device never ends.

    Raises:
        LoadError: CT011.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kind = "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
        raise LoadError(
            "CT011",
            f"{path} is no file",
            expected="a file on disk",
            received=kind,
            remedy="save it to a file first",
        )


def archive_names(path: Path) -> list[str] | None:
    """The names in a zip archive; None where it is torn.

    Raises:
        LoadError: CT011, entries that claim more than the file can hold.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except Exception:  # a damaged archive fails in any way
        return None
    size = path.stat().st_size
    if len(entries) > _MAX_ENTRIES or sum(entry.compress_size for entry in entries) > size:
        raise too_large(path, f"{len(entries)} entries that overlap, in {size:,} bytes")
    return [entry.filename for entry in entries]


def require_stored(path: Path) -> None:
    """Refuses compressed entries: torch.save writes none, and they can grow without bound.

    Raises:
        LoadError: CT011.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except Exception as error:  # a damaged archive fails in any way
        raise torn(path, error) from error
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > path.stat().st_size:
            raise too_large(path, f"{entry.filename[:80]} of {entry.file_size:,} bytes when it is unpacked")


def archive_entry(path: Path, name: str) -> bytes:
    """The bytes of a small entry of an archive, by the end of its name (after the archive's own folder).

    Raises:
        LoadError: CT011, no such entry, or it is larger than a header may be.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if entry.filename == name or entry.filename.partition("/")[2] == name:
                    if entry.file_size > MAX_HEADER_BYTES:
                        raise too_large(path, f"{name} of {entry.file_size:,} bytes")
                    return archive.read(entry)
    except LoadError:
        raise
    except Exception as error:  # a damaged archive fails in any way
        raise torn(path, error) from error
    raise torn(path, KeyError(f"no {name} in it"))


def read_json(path: Path) -> Any:
    """The content of a small JSON file.

    Raises:
        LoadError: CT010 not there, CT011 too large or no JSON.
    """
    try:
        require_regular(path)
        if path.stat().st_size > MAX_HEADER_BYTES:
            raise too_large(path, f"{counted(path.stat().st_size, 'byte')} of JSON")
        return parse_json(path.read_bytes(), path)
    except OSError as error:
        raise LoadError(
            "CT010",
            f"{path} cannot be read",
            expected="a JSON file",
            received=error.strerror or str(error),
            remedy="copy the whole folder",
        ) from error


def parse_json(content: bytes, path: Path) -> Any:
    """JSON from a file.

    Raises:
        LoadError: CT011, it is none, or is nested without end.
    """
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise torn(path, error) from error


_MAX_CONTAINERS, _MAX_DEPTH = 1_000_000, 100


def require_tree(path: Path, content: Any) -> None:
    """Refuses dictionaries and lists that hold themselves, or one another so often that no walk over them ends.

    Raises:
        LoadError: CT011.
    """
    kinds = (dict, list, tuple)
    count, stack = 0, [(content, 0)]
    while stack:
        value, depth = stack.pop()
        if not isinstance(value, kinds):
            continue
        count += 1
        if depth > _MAX_DEPTH or count > _MAX_CONTAINERS:
            raise too_large(path, "lists or dictionaries within one another without end")
        inner = value.values() if isinstance(value, dict) else value
        stack += [(each, depth + 1) for each in inner if isinstance(each, kinds)]


def inner_name(path: Path, name: object) -> Path:
    """The file that an index beside `path` names: a plain name in the same folder.

    Raises:
        LoadError: CT011, a name that leads elsewhere.
    """
    if not isinstance(name, str) or not name or name in {".", ".."} or Path(name).name != name or "\0" in name:
        raise LoadError(
            "CT011",
            f"{path} names a file outside its folder",
            expected="names of files beside it",
            received=repr(name)[:120],
            remedy="do not use this folder: its index was tampered with",
        )
    return path.parent / name


def torn(path: Path, error: BaseException) -> LoadError:
    """The error for a file that cannot be read to its end."""
    first_line = (str(error).splitlines() or [type(error).__name__])[0]
    return LoadError(
        "CT011",
        f"{path} cannot be read as a checkpoint",
        expected="a whole file",
        received=first_line[:200] or type(error).__name__,
        remedy="copy it again, and compare its size and checksum with the original's",
    )


def too_large(path: Path, claim: str) -> LoadError:
    """The error for a file that claims more than it can hold."""
    return LoadError(
        "CT011",
        f"{path} claims more than it holds",
        expected="a checkpoint as torch, safetensors or NumPy write it",
        received=claim,
        remedy="do not load it: it is damaged, or made to fill the memory",
    )
