"""The numbers of a preflight: for comparisons, exports and `track`."""

from __future__ import annotations

from collections.abc import Iterator

from curvtool.analyses.check.record import Check
from curvtool.report.numbers import Number

BAND = ""


def numbers(check: Check, noise: float) -> Iterator[Number]:
    """None that another report may have too."""
    yield from ()


def words(check: Check) -> str:
    """What it is."""
    return "check"


def name(check: Check) -> str:
    """The same as a column's header."""
    return "check"


def headline(check: Check) -> None:
    """It has no number to follow."""
