"""The numbers of a spectral density: for comparisons, exports and `track`."""

from __future__ import annotations

from collections.abc import Iterator

from curvtool.analyses.density.record import Density
from curvtool.report.headline import Headline
from curvtool.report.model import Warning
from curvtool.report.numbers import Number, interval, share_of, tag_of

BAND = "Bands: the 95 % interval."


def numbers(density: Density, noise: float) -> Iterator[Number]:
    """The shares below and near zero, and the trace that the quadrature implies."""
    label = f"density {density.operator}"
    for told, tag, share, threshold in (
        ("share below zero by more than rounding", "share_below_zero", density.below_zero, density.threshold),
        (f"share within {density.near:.4g} of zero", "share_near_zero", density.near_zero, None),
    ):
        value = share_of(share, noise, density.num_dims).model_copy(update={"threshold": threshold})
        yield Number(label, told, value, tag_of(density.operator, tag))
    rounding = noise * abs(density.trace)
    fixed = density.trace - rounding, density.trace + rounding
    value = interval(
        density.trace, density.trace_ci95, fixed, stderr=density.trace_stderr, degrees=density.trace_degrees
    )
    yield Number(label, "trace", value, tag_of(density.operator, "trace_by_density"))


def words(density: Density) -> str:
    """The first number."""
    return "Share of eigenvalues below zero by more than rounding"


def name(density: Density) -> str:
    """The same as a column's header."""
    return "share < 0"


def headline(density: Density) -> Headline:
    """The share below zero with its interval; the middle of that where the value is not known."""
    share = density.below_zero
    return Headline(share.value if share.is_known else (share.low + share.high) / 2, share.low, share.high)


def not_converged(density: Density, dtype: str) -> Warning:
    """What is missing."""
    return Warning(code="CT202", message="not every probe was made, or not every step")
