"""The numbers of norms of Jacobians: for comparisons, exports and `track`."""

from __future__ import annotations

import math
from collections.abc import Iterator

from curvtool.analyses.jacnorm.record import JacNorm, Summary
from curvtool.report.headline import Headline
from curvtool.report.model import Warning
from curvtool.report.numbers import ComparedValue, Number, bound, interval

BAND = "Bands: the estimated error."


def numbers(jac: JacNorm, noise: float) -> Iterator[Number]:
    """Mean and largest of each norm."""
    for told, summary, spread in (
        ("spectral", jac.spectral, jac.spectral_max_error),
        ("Frobenius", jac.frobenius, jac.frobenius_max_stderr),
    ):
        if summary is None:
            continue
        over_data = summary.mean_stderr_examples
        if over_data is None:
            over_data = summary.std / math.sqrt(max(jac.num_examples, 1))
        drawn = told == "Frobenius" and bool(spread)  # the error of the other is a bound
        tag = f"jacobian_{told.lower()}_norm"
        mean = _of_summary(summary, "mean", spread, noise, drawn).model_copy(
            update={
                "data_stderr": over_data,
                "data_degrees": max(jac.num_examples - 1.0, 1.0),
                "data_bias": 0.0,
            }
        )
        yield Number("jacnorm", f"mean {told} norm", mean, f"{tag}_mean")
        largest = _of_summary(summary, "max", spread, noise, drawn)
        yield Number("jacnorm", f"largest {told} norm", largest, f"{tag}_max")


def _of_summary(summary: Summary, which: str, spread: float | None, noise: float, drawn: bool) -> ComparedValue:
    """A statistic over examples with its own interval; of older reports, with the worst example's error.

    Args:
        summary: the statistics.
        which: `mean` or `max`.
        spread: the worst example's error.
        noise: relative error of a product.
        drawn: whether random probes took part.
    """
    value = float(getattr(summary, which))
    rounding = noise * abs(value)
    if summary.bounds is None:
        return bound(value, max(spread or 0.0, rounding))
    low, high = summary.bounds[which]
    if drawn:
        return interval(value, (low, high), (value - rounding, value + rounding))
    return bound(value, max(high - value, value - low, rounding))


def words(jac: JacNorm) -> str:
    """The first number."""
    return "Largest norm of an input-output Jacobian"


def name(jac: JacNorm) -> str:
    """The same as a column's header."""
    return "norm"


def headline(jac: JacNorm) -> Headline | None:
    """The largest norm with its interval; of older reports, with the worst example's error."""
    summary = jac.spectral or jac.frobenius
    error = (jac.spectral_max_error if jac.spectral else jac.frobenius_max_stderr) or 0.0
    if summary is None:
        return None
    low, high = (summary.bounds or {}).get("max", (summary.max - error, summary.max + error))
    return Headline(summary.max, low, high)


def not_converged(jac: JacNorm, dtype: str) -> Warning:
    """Where the errors stand."""
    return Warning(
        code="CT201",
        message="some spectral norms did not converge: their errors are in the report (spectral_max_error)",
    )
