"""Writing a file so that it is either the old one or the whole new one."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from curvtool.errors import UsageError


def check_writable(path: Path) -> None:
    """Before anything is computed: whether a file can be made there.

    Raises:
        UsageError: CT007, the folder does not exist or cannot be written to.
    """
    folder = path.absolute().parent
    if path.is_dir() or not folder.is_dir() or not _takes_files(folder):
        raise UsageError(
            "CT007",
            f"cannot write {path}",
            expected="a file name in a folder that exists and can be written to",
            received="a folder"
            if path.is_dir()
            else f"{folder} " + ("takes no files" if folder.is_dir() else "does not exist"),
            remedy=f"mkdir -p {folder}" if not folder.is_dir() else "another path",
        )


def _takes_files(folder: Path) -> bool:
    """By trying: permissions alone tell nothing of a read-only file system, or of /proc."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def write_atomic(path: Path, content: bytes) -> None:
    """A temporary file in the same folder, flushed to the disk, then put in the place of `path` at once.

    Raises:
        UsageError: CT007, the folder went away, or the disk is full.
    """
    try:
        _replace(path, content)
    except OSError as error:
        raise UsageError(
            "CT007",
            f"cannot write {path}",
            expected="a folder that can be written to, with room for the file",
            received=error.strerror or str(error),
            remedy="another path",
        ) from error


def _replace(path: Path, content: bytes) -> None:
    folder = path.absolute().parent
    handle, name = tempfile.mkstemp(dir=folder, prefix=f".{path.name}.", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
