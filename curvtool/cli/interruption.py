"""Signals: Ctrl-C, and those by which a batch system says that the time is nearly up."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from curvtool import critical

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name))
_asked: int | None = None  # which signal
_is_patient = False


def install() -> None:
    """They raise KeyboardInterrupt from now on, and are remembered."""
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as a shell does for what runs in its background
            signal.signal(number, _interrupt)


@contextmanager
def at_once() -> Iterator[None]:
    """Signals end the process without a word."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def be_patient() -> None:
    """The first signal is only remembered from now on, for whoever looks between two products; a second one raises.

    So that state can be saved, and so that several ranks stop at the same product.
    """
    global _is_patient
    _is_patient = True


def ignore_further() -> None:
    """From now on the process comes to its end undisturbed."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _interrupt(number: int, _frame: FrameType | None) -> None:
    global _asked
    first, _asked = _asked is None, number
    if not (first and _is_patient) and not critical.hold():
        raise KeyboardInterrupt


def was_asked() -> bool:
    """Whether a signal came."""
    return _asked is not None


def was_ctrl_c() -> bool:
    """Whether it was Ctrl-C."""
    return _asked == signal.SIGINT


def raise_if_asked() -> None:
    """Raises the interruption again: torch swallows one that falls into its lazy imports.

    Raises:
        KeyboardInterrupt: a signal came, and nobody looks for it between the products.
    """
    if _asked is not None and not _is_patient:
        raise KeyboardInterrupt
