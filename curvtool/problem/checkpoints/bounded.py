"""An unpickler that allocates no more than the file holds, to be told which names it may import.

Pure Python: the unpickler in C allocates what a file claims (a memo of billions of entries). So does the pure one for
byte arrays, which no checkpoint holds and which are refused here, and a file's own `read` of more than there is.
"""

from __future__ import annotations

import os
import pickle
from typing import Any, BinaryIO, ClassVar


class _Bounded:
    """A file whose reads never ask for more than is left."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        place = file.tell()
        self._size = file.seek(0, os.SEEK_END)
        file.seek(place)

    def read(self, num: int = -1) -> bytes:
        """At most so many bytes as are left."""
        left = max(self._size - self._file.tell(), 0)
        return self._file.read(left if num < 0 else min(num, left))

    def readline(self) -> bytes:
        """Up to the next end of line, which is in the file or nowhere."""
        return self._file.readline()

    def readinto(self, buffer: Any) -> int:
        """As many bytes as the buffer takes and are left."""
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)


class BoundedUnpickler(pickle._Unpickler):
    """Imports nothing: `find_class` is the subclass's to say."""

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def __init__(self, file: BinaryIO) -> None:
        bounded: Any = _Bounded(file)
        super().__init__(bounded, encoding="utf-8")

    def find_class(self, module: str, name: str) -> Any:
        """Refuses every name."""
        raise pickle.UnpicklingError(f"{module[:80]}.{name[:80]} is not to be imported")

    def _refuse(self) -> None:
        raise pickle.UnpicklingError("a byte array, which no checkpoint holds")

    dispatch[pickle.BYTEARRAY8[0]] = _refuse
