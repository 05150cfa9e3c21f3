"""Writing a file so that it is either the old one or the whole new one."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path
from shlex import quote

from curvtool.errors import UsageError

_LONGEST_PREFIX = 40  # of a name: file systems take 255 bytes


def check_writable(path: Path) -> None:
    """Before anything is computed: whether a file can be made there.

    Raises:
        UsageError: CT007, the folder does not exist or cannot be written to.
    """
    if _is_stream(path):
        return
    path = _through_links(path)
    if path.is_file() and not path.stat().st_mode & 0o222:
        raise UsageError(
            "CT007",
            f"cannot write {path}",
            expected="a file that may be written to",
            received="a file without write permission",
            remedy=f"chmod u+w {quote(str(path))}, or another path",
        )
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

    A link stays, and what it points to is replaced; a file that is there keeps its mode. A terminal, a pipe or another
    stream is written to as it is.

    Raises:
        UsageError: CT007, the folder went away, or the disk is full.
    """
    try:
        if _is_stream(path):
            with path.open("wb") as file:
                file.write(content)
        else:
            _replace(_through_links(path), content)
    except OSError as error:
        raise UsageError(
            "CT007",
            f"cannot write {path}",
            expected="a folder that can be written to, with room for the file",
            received=error.strerror or str(error),
            remedy="another path",
        ) from error


def _is_stream(path: Path) -> bool:
    """Whether it is a device of characters or a pipe: /dev/stdout, /dev/null, what mkfifo made."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return stat.S_ISCHR(mode) or stat.S_ISFIFO(mode)


def _through_links(path: Path) -> Path:
    """What a link points to, there or not.

    Raises:
        UsageError: CT007, it is there and no regular file: a socket or a disk is not to be replaced by a report.
    """
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    if target.is_symlink():
        raise UsageError(
            "CT007", f"cannot write {path}", expected="a link to a file", received="links in a circle",
            remedy="another path",
        )  # fmt: skip
    if target.exists() and not target.is_file() and not target.is_dir():
        raise UsageError(
            "CT007",
            f"cannot write {path}",
            expected="a regular file, a terminal or a pipe",
            received="a socket, a disk or another device",
            remedy="another path",
        )
    return target


def _mode_of(path: Path) -> int:
    """That of the file that is there, else what the process gives to new ones."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        umask = os.umask(0)
        os.umask(umask)
        return 0o666 & ~umask


def _replace(path: Path, content: bytes) -> None:
    folder = path.absolute().parent
    mode = _mode_of(path)
    handle, name = tempfile.mkstemp(dir=folder, prefix=f".{path.name[:_LONGEST_PREFIX]}.", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(mode)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
