"""The numbers of a trace: for comparisons, exports and `track`."""

from __future__ import annotations

from collections.abc import Iterator

from curvtool.analyses.trace.record import BlockTrace, Trace
from curvtool.report.headline import Headline
from curvtool.report.model import Warning
from curvtool.report.numbers import Number, bound, estimate_of, half_width, known, least_degrees, tag_of
from curvtool.report.remedies import kept_by_rounding, wider

BAND = "Bands: the 95 % interval."


def numbers(trace: Trace, noise: float) -> Iterator[Number]:
    """The trace, and each layer's."""
    label, tag = f"trace {trace.operator}", tag_of(trace.operator, "trace")
    if trace.stderr == 0.0 and trace.ci95 is not None:  # every entry was computed
        yield Number(label, "trace", bound(trace.value, (trace.ci95[1] - trace.ci95[0]) / 2), tag)
    else:
        degrees = degrees_of(trace, trace.num_passes)
        value = estimate_of(trace.value, trace.stderr, degrees, trace.arithmetic_error, noise)
        yield from known(label, "trace", value, tag)
    for name, block in (trace.per_layer or {}).items():
        degrees = degrees_of(block, trace.num_passes)
        value = estimate_of(block.value, block.stderr, degrees, block.arithmetic_error, noise)
        yield from known(label, f"layer {name}", value, tag_of(trace.operator, f"layers/{name}/trace"))


def degrees_of(record: Trace | BlockTrace, num_passes: int) -> float:
    """Degrees of freedom of its standard error; the least that so many passes give where the report has none."""
    return least_degrees(record.degrees_of_freedom, num_passes)


def half_width_of(record: Trace | BlockTrace, num_passes: int) -> float:
    """Half of its 95 % interval, as if the number of passes had been fixed beforehand."""
    return half_width(record.stderr, degrees_of(record, num_passes), record.arithmetic_error)


def words(trace: Trace) -> str:
    """The first number."""
    return "Trace"


def name(trace: Trace) -> str:
    """The same as a column's header."""
    return "trace"


def headline(trace: Trace) -> Headline:
    """The trace with its interval."""
    low, high = trace.ci95 or (trace.value, trace.value)
    return Headline(trace.value, low, high)


def not_converged(trace: Trace, dtype: str) -> Warning:
    """Why the interval is wider than asked for, and what helps."""
    rounding = trace.arithmetic_error or 0.0
    if rounding > trace.rtol * abs(trace.value):
        worst = rounding / abs(trace.value) if trace.value else float("inf")
        return kept_by_rounding("CT202", "the interval", trace.rtol, dtype, worst)
    return wider("the interval is wider", trace.rtol, trace.num_passes)
