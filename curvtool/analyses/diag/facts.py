"""The numbers of a diagonal: for comparisons, exports and `track`."""

from __future__ import annotations

import math
from collections.abc import Iterator

from curvtool.analyses.diag.record import Diag
from curvtool.report.headline import Headline
from curvtool.report.model import Warning
from curvtool.report.numbers import Number, estimate_of, half_width, known, least_degrees, tag_of
from curvtool.report.remedies import kept_by_rounding, wider

BAND = "Bands: 95 % over the probes."


def numbers(diag: Diag, noise: float) -> Iterator[Number]:
    """The sum of the entries."""
    value = estimate_of(diag.sum, diag.sum_stderr, degrees_of(diag), diag.arithmetic_error, noise)
    yield from known(f"diag {diag.operator}", "sum", value, tag_of(diag.operator, "trace_by_diagonal"))


def degrees_of(diag: Diag) -> float:
    """Degrees of freedom of the sum's standard error; the least that its passes give where the report has none."""
    return least_degrees(diag.degrees_of_freedom, diag.num_passes)


def half_width_of_sum(diag: Diag) -> float:
    """Half of the sum's 95 % interval, as if the number of passes had been fixed beforehand."""
    return half_width(diag.sum_stderr, degrees_of(diag), diag.arithmetic_error)


def words(diag: Diag) -> str:
    """The first number."""
    return "Sum of the diagonal"


def name(diag: Diag) -> str:
    """The same as a column's header."""
    return "sum"


def headline(diag: Diag) -> Headline:
    """The sum with its interval."""
    half = half_width_of_sum(diag)
    return Headline(diag.sum, diag.sum - half, diag.sum + half)


def not_converged(diag: Diag, dtype: str) -> Warning:
    """Why the entries' errors are larger than asked for, and what helps."""
    if diag.method == "exact":
        return kept_by_rounding("CT202", "the entries' errors", diag.rtol, dtype, diag.relative_error or math.inf)
    return wider("the entries' errors are larger", diag.rtol, diag.num_passes)
