"""A lock on a folder that two processes must not write to at once."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

from curvtool.errors import UsageError

PATIENCE_SECONDS = 100.0  # a machine that went down may hold its lock on a network's files for 90 s
_LOOK_SECONDS = 0.5


class Lock:
    """Taken when made, held until it is released or the process ends, however it ends.

    Where a file system knows no locks, nothing is locked.

    Args:
        path: the file to lock; it is made, and names the process that holds it.
        notice: is told where another process has to be waited for.
        patience: seconds to wait for it; `PATIENCE_SECONDS` if None.

    Raises:
        UsageError: CT066, another process holds it still; CT007, the file cannot be made or written to.
    """

    def __init__(
        self, path: Path, notice: Callable[[str], None] = lambda _: None, patience: float | None = None
    ) -> None:
        self.path = path
        self._handle: int | None = None
        try:
            import fcntl
        except ImportError:  # no such locks on this system
            return
        until: float | None = None
        patience = PATIENCE_SECONDS if patience is None else patience
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise UsageError(
                "CT007",
                f"cannot write {path}",
                expected="a folder whose files can be written to",
                received=error.strerror or str(error),
                remedy="another folder",
            ) from error
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                holder = os.pread(handle, 200, 0).decode(errors="replace").strip()
                if until is None:
                    until = time.monotonic() + patience
                    if patience:
                        notice(f"{path.parent} is in use by {holder}: waiting for {patience:g} s at most")
                if time.monotonic() < until:
                    time.sleep(_LOOK_SECONDS)
                    continue
                os.close(handle)
                raise UsageError(
                    "CT066",
                    f"another process is writing to {path.parent}",
                    expected="one process, or one group of ranks, at a time",
                    received=f"in use by {holder}",
                    remedy="wait for it, or give this one another folder",
                ) from None
            except OSError:
                os.close(handle)
                return
        self._handle = handle
        with contextlib.suppress(OSError):  # a full disk: the lock holds without a name
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)

    @property
    def is_held(self) -> bool:
        """Whether the file that is locked is the one that is there: a folder may be deleted and made again."""
        if self._handle is None:
            return True
        try:
            there, own = self.path.stat(), os.fstat(self._handle)
        except OSError:
            return False
        return (there.st_dev, there.st_ino) == (own.st_dev, own.st_ino)

    def release(self) -> None:
        """Lets others take it."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
