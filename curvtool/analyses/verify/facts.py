"""The numbers of a comparison with other tools: for comparisons, exports and `track`."""

from __future__ import annotations

from collections.abc import Iterator

from curvtool.analyses.verify.record import Verify
from curvtool.report.model import Warning
from curvtool.report.numbers import Number

BAND = ""


def numbers(verify: Verify, noise: float) -> Iterator[Number]:
    """None: those of `eigs` and `trace` are the ones to compare."""
    yield from ()


def words(verify: Verify) -> str:
    """What it is."""
    return "verify"


def name(verify: Verify) -> str:
    """The same as a column's header."""
    return "verify"


def headline(verify: Verify) -> None:
    """It has no number to follow."""


def not_converged(verify: Verify, dtype: str) -> Warning:
    """What helps."""
    return Warning(code="CT201", message="curvtool's own numbers did not converge: raise --rtol")
