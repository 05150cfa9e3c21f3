"""Every number of a report with its error, one after the other: for comparisons, tables and exports."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from curvtool.linalg.student import quantile
from curvtool.report.analyses import BlockTrace, Density, Diag, Eigs, JacNorm, Share, Summary, Trace
from curvtool.report.model import Analysis, ProblemSummary, Report, TrackRow
from curvtool.report.ranks import Rank, rank_of_layer, ranks, ranks_of
from curvtool.report.record import Record

ErrorKind = Literal["bound", "stderr", "interval"]
LEVEL = 0.05  # of the intervals
_ROUNDING = 1e-12  # relative, of numbers in float64
_LEAST_PARTS = 4  # of the data: of fewer no standard error over them is stated


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
    step: float = Field(default=0.0, description="of a share: one eigenvalue; its interval ends at whole ones")
    population: tuple[float, float] | None = Field(
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
        own = list(_numbers_of(analysis, noise))
        label = own[0].analysis if own else ""
        seen[label] = seen.get(label, 0) + 1
        suffix = f" ({seen[label]})" if seen[label] > 1 else ""  # the same analysis twice, by its place
        for number in own:
            yield dataclasses.replace(number, analysis=number.analysis + suffix)


def gradient_error(problem: ProblemSummary) -> float:
    """What rounding may do to the gradient's norm; 0 where it was not measured."""
    return problem.preflight.gradient_error or 0.0


def _numbers_of(analysis: Analysis, noise: float) -> Iterator[Number]:
    match analysis:
        case Eigs():
            yield from _of_eigs(analysis)
        case Trace():
            label, tag = f"trace {analysis.operator}", _of_matrix(analysis.operator, "trace")
            if analysis.stderr == 0.0 and analysis.ci95 is not None:  # every entry was computed
                half = (analysis.ci95[1] - analysis.ci95[0]) / 2
                yield Number(label, "trace", bound(analysis.value, half), tag)
            else:
                degrees = degrees_of(analysis, analysis.num_passes)
                found = _estimate(analysis.value, analysis.stderr, degrees, analysis.arithmetic_error, noise)
                yield from _known(label, "trace", found, tag)
            for name, block in (analysis.per_layer or {}).items():
                tag = _of_matrix(analysis.operator, f"layers/{name}/trace")
                degrees = degrees_of(block, analysis.num_passes)
                found = _estimate(block.value, block.stderr, degrees, block.arithmetic_error, noise)
                yield from _known(label, f"layer {name}", found, tag)
        case Density():
            label = f"density {analysis.operator}"
            for name, tag, share in (
                ("share below zero by more than rounding", "share_below_zero", analysis.below_zero),
                (f"share within {analysis.near:.4g} of zero", "share_near_zero", analysis.near_zero),
            ):
                value = share_of(share, noise, analysis.num_dims)
                yield Number(label, name, value, _of_matrix(analysis.operator, tag))
            tag = _of_matrix(analysis.operator, "trace_by_density")
            rounding = noise * abs(analysis.trace)
            fixed = analysis.trace - rounding, analysis.trace + rounding
            own = interval(
                analysis.trace, analysis.trace_ci95, fixed, stderr=analysis.trace_stderr, degrees=analysis.trace_degrees
            )
            yield Number(label, "trace", own, tag)
        case Diag():
            label, tag = f"diag {analysis.operator}", _of_matrix(analysis.operator, "trace_by_diagonal")
            degrees = degrees_of(analysis, analysis.num_passes)
            found = _estimate(analysis.sum, analysis.sum_stderr, degrees, analysis.arithmetic_error, noise)
            yield from _known(label, "sum", found, tag)
        case JacNorm():
            for name, summary, spread in (
                ("spectral", analysis.spectral, analysis.spectral_max_error),
                ("Frobenius", analysis.frobenius, analysis.frobenius_max_stderr),
            ):
                if summary is not None:
                    over_data = summary.mean_stderr_examples
                    if over_data is None:
                        over_data = summary.std / math.sqrt(max(analysis.num_examples, 1))
                    drawn = name == "Frobenius" and bool(spread)  # the error of the other is a bound
                    tag = f"jacobian_{name.lower()}_norm"
                    mean = _of_summary(summary, "mean", spread, noise, drawn).model_copy(
                        update={
                            "data_stderr": over_data,
                            "data_degrees": max(analysis.num_examples - 1.0, 1.0),
                            "data_bias": 0.0,
                        }
                    )
                    yield Number("jacnorm", f"mean {name} norm", mean, f"{tag}_mean")
                    largest = _of_summary(summary, "max", spread, noise, drawn)
                    yield Number("jacnorm", f"largest {name} norm", largest, f"{tag}_max")


def _of_eigs(eigs: Eigs) -> Iterator[Number]:
    label = f"eigs {eigs.operator} {eigs.which}"
    known = [pair.population for pair in eigs.eigenvalues]
    degrees = next((float(each.degrees) for each in known if each is not None), _LEAST_PARTS - 1.0)
    for place, rank, pair in zip(ranks(eigs), ranks_of(eigs), eigs.eigenvalues, strict=True):
        value = bound(pair.value, pair.error_bound, pair.data_stderr, degrees).model_copy(
            update={
                "rank": rank,
                "data_bias": pair.data_bias,
                "population": None if pair.population is None else (pair.population.low, pair.population.high),
            }
        )
        yield Number(label, f"eigenvalue {place}", value, _of_matrix(eigs.operator, _tag_of_pair(eigs, place)))
    for name, layer in (eigs.per_layer or {}).items():
        tag = _of_matrix(eigs.operator, f"layers/{name}/{_FIRST[eigs.which]}")
        value = bound(layer.value, layer.error_bound)
        yield Number(label, f"layer {name}", value.model_copy(update={"rank": rank_of_layer(eigs, layer)}), tag)


def is_layer(name: str) -> bool:
    """Whether a number of this name is of a layer's own block."""
    return name.startswith("layer ")


def _of_summary(summary: Summary, name: str, spread: float | None, noise: float, drawn: bool) -> ComparedValue:
    """A statistic over examples with its own interval; of older reports, with the worst example's error.

    Args:
        summary: the statistics.
        name: `mean` or `max`.
        spread: the worst example's error.
        noise: relative error of a product.
        drawn: whether random probes took part.
    """
    value = float(getattr(summary, name))
    rounding = noise * abs(value)
    if summary.bounds is None:
        return bound(value, max(spread or 0.0, rounding))
    low, high = summary.bounds[name]
    if drawn:
        return interval(value, (low, high), (value - rounding, value + rounding))
    return bound(value, max(high - value, value - low, rounding))


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


_FIRST = {"la": "lambda_max", "sa": "lambda_min", "lm": "lambda_abs_max", "be": "lambda_max"}


def _tag_of_pair(eigs: Eigs, place: int) -> str:
    """`lambda_max`, `lambda_2`, … from above, `lambda_min`, `lambda_min_2`, … from below."""
    if place == 1:
        return _FIRST[eigs.which]
    if place == -1:
        return "lambda_min"
    name = "lambda_min" if place < 0 else {"sa": "lambda_min", "lm": "lambda_abs"}.get(eigs.which, "lambda")
    return f"{name}_{abs(place)}"


def _of_matrix(operator: str, tag: str) -> str:
    """The Hessian's numbers have no prefix."""
    return tag if operator == "hessian" else f"{operator}/{tag}"


def degrees_of(record: Trace | BlockTrace | Diag, num_passes: int) -> float:
    """Degrees of freedom of its standard error; the least that so many passes give where the report has none."""
    return max(num_passes - 1.0, 1.0) if record.degrees_of_freedom is None else record.degrees_of_freedom


def half_width_of(record: Trace | BlockTrace | Diag, num_passes: int) -> float:
    """Half of its 95 % interval, as if the number of passes had been fixed beforehand."""
    stderr = record.sum_stderr if isinstance(record, Diag) else record.stderr
    return half_width(stderr, degrees_of(record, num_passes), record.arithmetic_error)


def share_of(share: Share, noise: float, num_dims: int) -> ComparedValue:
    """A share of the eigenvalues: what the steps leave possible, and beyond that the probes' error."""
    fixed = min(share.least, share.value - noise), max(share.most, share.value + noise)
    found = interval(share.value, (share.low, share.high), fixed, stderr=share.stderr)
    return found.model_copy(update={"share": share, "step": 1 / num_dims})


def _estimate(
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


def _known(label: str, name: str, value: ComparedValue | None, tag: str) -> Iterator[Number]:
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
