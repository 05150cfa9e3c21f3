"""Sections that an interruption does not cut in two: what several numbers say together is updated as one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_depth = 0
_is_held = False


@contextmanager
def undisturbed() -> Iterator[None]:
    """A `KeyboardInterrupt` that a handler asks for by `hold` meanwhile is raised at the end of the section.

    Raises:
        KeyboardInterrupt: at the end.
    """
    global _depth, _is_held
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
    if _is_held and not _depth:
        _is_held = False
        raise KeyboardInterrupt


def hold() -> bool:
    """For a signal's handler: whether the interruption waits for the end of a section."""
    global _is_held
    _is_held = _is_held or _depth > 0
    return _depth > 0
