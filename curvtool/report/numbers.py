"""Every number of a report with its error, one after the other: for comparisons, tables and exports."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from curvtool import registry
from curvtool.linalg.student import quantile
from curvtool.report.model import ProblemSummary, Report, TrackRow
from curvtool.report.ranks import Rank
from curvtool.report.record import AnalysisRecord, Interval, Record
from curvtool.report.share import Share

ErrorKind = Literal["bound", "stderr", "interval"]
LEVEL = 0.05  # of the intervals
_ROUNDING = 1e-12  # relative, of numbers in float64


class ComparedValue(Record):
    """One report's number."""

    value: float
    error: float = Field(
        description="of the computation: a bound, a standard error, or the longer side of a 95 % interval, as "
        "error_kind says"
    )
    error_kind: ErrorKind = Field(
        description="bound: estimated, or the noise floor; stderr: over random probes; interval: 95 %"
    )
    stderr: float = Field(default=0.0, description="of what is random in it, at least")
    degrees_of_freedom: float | None = Field(default=None, description="of stderr; null: a normal variable")
    low: float = Field(description="lower end of the 95 % interval, or of the bounds where nothing is random")
    least: float = Field(description="lower end of what is not random: bounds and rounding; from low up to the value")
    most: float = Field(description="upper end of the same")
    high: float = Field(description="upper end of the interval")
    data_stderr: float | None = Field(default=None, description="standard error over the data, where it is known")
    data_degrees: float | None = Field(
        default=None, description="of freedom of data_stderr: parts of the data, or examples, less one"
    )
    data_bias: float | None = Field(
        default=None, description="how far data of this size raise it on average, where that is known; 0 of a mean"
    )
    rank: Rank | None = Field(default=None, description="of an eigenvalue: what its list leaves open")
    share: Share | None = Field(default=None, description="of a share of the eigenvalues: its interval")
    threshold: float | None = Field(
        default=None, description="of a share below zero: what an eigenvalue counts as below zero by"
    )
    step: float = Field(default=0.0, description="of a share: one eigenvalue; its interval ends at whole ones")
    population: Interval | None = Field(
        default=None, description="95 % interval for the population that the data are a sample of, where it is known"
    )


@dataclass(frozen=True)
class Number:
    """A number of a report, and what it is of."""

    analysis: str
    name: str
    value: ComparedValue
    tag: str  # the same for every report of this quantity: what a tracker calls it


def numbers_of(report: Report | TrackRow) -> Iterator[Number]:
    """Every number that another report may have too."""
    problem = report.problem
    noise = problem.preflight.noise_floor or _ROUNDING
    facts = [("loss", problem.loss_value, 0.0), ("gradient norm", problem.grad_norm, gradient_error(problem))]
    for name, value, least in facts:
        if value is not None:
            yield Number("problem", name, bound(value, max(noise * abs(value), least)), name.replace(" ", "_"))
    seen: dict[str, int] = {}
    for analysis in report.analyses:
        own = list(numbers_of_analysis(analysis, noise))
        label = own[0].analysis if own else ""
        seen[label] = seen.get(label, 0) + 1
        suffix = f" ({seen[label]})" if seen[label] > 1 else ""  # the same analysis twice, by its place
        for number in own:
            yield dataclasses.replace(number, analysis=number.analysis + suffix)


def numbers_of_analysis(analysis: AnalysisRecord, noise: float) -> Iterator[Number]:
    """Every number of one analysis.

    Args:
        analysis: the record.
        noise: relative error of a product.
    """
    yield from registry.part(analysis.kind, "facts").numbers(analysis, noise)


def gradient_error(problem: ProblemSummary) -> float:
    """What rounding may do to the gradient's norm; 0 where it was not measured."""
    return problem.preflight.gradient_error or 0.0


def is_layer(name: str) -> bool:
    """Whether a number of this name is of a layer's own block."""
    return name.startswith("layer ")


def bound(
    value: float, error: float, data_stderr: float | None = None, data_degrees: float | None = None
) -> ComparedValue:
    """A number that lies within its error, as far as that is known."""
    low, high = value - error, value + error
    return ComparedValue(
        value=value, error=error, error_kind="bound", low=low, least=low, most=high, high=high,
        data_stderr=data_stderr, data_degrees=None if data_stderr is None else data_degrees,
    )  # fmt: skip


def estimate(value: float, stderr: float, degrees: float | None, arithmetic: float = 0.0) -> ComparedValue:
    """A number from random probes, with Student's 95 % interval.

    Args:
        value: the estimate.
        stderr: its standard error.
        degrees: of freedom; None for a normal variable.
        arithmetic: what rounding may add.
    """
    half = half_width(stderr, degrees, arithmetic)
    return ComparedValue(
        value=value,
        error=stderr,
        error_kind="stderr",
        stderr=stderr,
        degrees_of_freedom=degrees,
        low=value - half,
        least=value - arithmetic,
        most=value + arithmetic,
        high=value + half,
    )


def interval(
    value: float,
    ends: tuple[float, float],
    fixed: tuple[float, float] | None = None,
    *,
    stderr: float = 0.0,
    degrees: float | None = None,
    data_stderr: float | None = None,
) -> ComparedValue:
    """A number with a 95 % interval, which may be longer on one side.

    Args:
        value: the number.
        ends: of the interval.
        fixed: ends of what is not random in it, as bounds and rounding; None: nothing is.
        stderr: of what is random, at least; an interval of whole counts may be shorter.
        degrees: of freedom; None for a normal variable.
        data_stderr: the standard error over the data.
    """
    low, high = min(ends[0], value), max(ends[1], value)
    least, most = fixed or (value, value)
    return ComparedValue(
        value=value,
        error=max(high - value, value - low),
        error_kind="interval",
        stderr=stderr,
        degrees_of_freedom=degrees,
        low=low,
        least=min(max(least, low), value),
        most=max(min(most, high), value),
        high=high,
        data_stderr=data_stderr,
    )


def half_width(stderr: float | None, degrees: float | None, arithmetic: float | None = None) -> float:
    """Half of the 95 % interval: Student's t over the probes, plus what rounding may add.

    Args:
        stderr: the standard error; None is none.
        degrees: of freedom; None for a normal variable.
        arithmetic: None is none.
    """
    return quantile(LEVEL, math.inf if degrees is None else degrees) * (stderr or 0.0) + (arithmetic or 0.0)


def tag_of(operator: str, tag: str) -> str:
    """What a tracker calls a matrix's number; the Hessian's have no prefix."""
    return tag if operator == "hessian" else f"{operator}/{tag}"


def least_degrees(degrees: float | None, num_passes: int) -> float:
    """Degrees of freedom of a standard error; the least that so many passes give where the report has none."""
    return max(num_passes - 1.0, 1.0) if degrees is None else degrees


def share_of(share: Share, noise: float, num_dims: int) -> ComparedValue:
    """A share of the eigenvalues: what the steps leave possible, and beyond that the probes' error."""
    fixed = min(share.least, share.value - noise), max(share.most, share.value + noise)
    found = interval(share.value, (share.low, share.high), fixed, stderr=share.stderr)
    return found.model_copy(update={"share": share, "step": 1 / num_dims})


def estimate_of(
    value: float, stderr: float | None, degrees: float, arithmetic: float | None, noise: float
) -> ComparedValue | None:
    """A number by probes, or with a bound where every entry was computed; None where no error is known.

    Args:
        value: the number.
        stderr: its standard error.
        degrees: of freedom.
        arithmetic: what rounding may add; None: the noise of one product.
        noise: relative error of a product.
    """
    if stderr is None:
        return None
    arithmetic = noise * abs(value) if arithmetic is None else arithmetic
    return estimate(value, stderr, degrees, arithmetic) if stderr else bound(value, arithmetic)


def known(label: str, name: str, value: ComparedValue | None, tag: str) -> Iterator[Number]:
    """The number, where its error is known."""
    if value is not None:
        yield Number(label, name, value, tag)


def numbers(found: Report | Sequence[TrackRow]) -> list[dict[str, Any]]:
    """A dictionary a number: `analysis`, `name`, `value`, `error`, `error_kind`, `degrees_of_freedom`, `low`, `high`,
    `data_stderr`; for the rows of `track` also `run`, `checkpoint` and `step`.

        pandas.DataFrame(curvtool.numbers(curvtool.load_report("report.json")))
    """
    if isinstance(found, Report):
        return [_record(number) for number in numbers_of(found)]
    return [
        {"run": row.run, "checkpoint": row.checkpoint, "step": row.step, **_record(number)}
        for row in found
        for number in numbers_of(row)
    ]


def _record(number: Number) -> dict[str, Any]:
    value = number.value
    return {
        "analysis": number.analysis,
        "name": number.name,
        "value": value.value,
        "error": value.error,
        "error_kind": value.error_kind,
        "degrees_of_freedom": value.degrees_of_freedom,
        "low": value.low,
        "high": value.high,
        "data_stderr": value.data_stderr,
    }
