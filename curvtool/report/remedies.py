"""Warnings of numbers whose errors are larger than asked for, with remedies that work."""

from __future__ import annotations

import math

from curvtool.report.model import Warning
from curvtool.words import counted

_LARGEST_RTOL = 0.5  # worth an advice


def kept_by_rounding(code: str, which: str, rtol: float, dtype: str, worst: float) -> Warning:
    """The warning for errors that no product lowers, the worst of which is so large beside its value."""
    remedies = [] if dtype == "float64" else ["--dtype float64"]
    if worst < _LARGEST_RTOL:
        remedies.append(f"--rtol {rounded_up(worst)}")
    remedy = ", or ".join(remedies) or "it is 0 within rounding, and of a 0 no relative error is ever met"
    return Warning(code=code, message=f"rounding alone keeps {which} above rtol {rtol:g}: {remedy}")


def rounded_up(value: float) -> str:
    """To one digit, never less."""
    exponent = math.floor(math.log10(value))
    return f"{math.ceil(value / 10**exponent)}e{exponent}"


def wider(what: str, rtol: float, num_passes: int) -> Warning:
    """The warning for errors of probes that more passes make smaller."""
    return Warning(
        code="CT202",
        message=f"{what} than rtol {rtol:g} after {counted(num_passes, 'pass')}: raise --max-passes or --rtol",
    )
