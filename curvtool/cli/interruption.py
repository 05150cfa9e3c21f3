"""Ctrl-C and SIGTERM, a batch system's way to interrupt, as KeyboardInterrupt that is not lost."""

from __future__ import annotations

import signal
from types import FrameType

_asked = False


def install() -> None:
    """Both signals raise KeyboardInterrupt from now on, and are remembered."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as a shell does for what runs in its background
        signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    global _asked
    _asked = True
    raise KeyboardInterrupt


def raise_if_asked() -> None:
    """Raises the interruption again: torch swallows one that falls into its lazy imports.

    Raises:
        KeyboardInterrupt: a signal came.
    """
    if _asked:
        raise KeyboardInterrupt
