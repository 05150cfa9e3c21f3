"""Every number of a report with its error, one after the other: for comparisons, tables and exports."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from curvtool.report.analyses import Density, Diag, Eigs, JacNorm, Trace
from curvtool.report.model import Analysis, Report, TrackRow
from curvtool.report.record import Record

ErrorKind = Literal["bound", "stderr"]
_ROUNDING = 1e-12  # relative, of numbers in float64


class ComparedValue(Record):
    """One report's number."""

    value: float
    error: float = Field(description="of the computation: a bound or a standard error, as error_kind says")
    error_kind: ErrorKind = Field(description="bound: estimated, or the noise floor; stderr: over random probes")
    data_stderr: float | None = Field(default=None, description="standard error over the data, where it is known")
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
    for name, value in (("loss", problem.loss_value), ("gradient norm", problem.grad_norm)):
        if value is not None:
            yield Number("problem", name, _bound(value, noise * abs(value)), name.replace(" ", "_"))
    seen: dict[str, int] = {}
    for analysis in report.analyses:
        own = list(_numbers_of(analysis, noise))
        label = own[0].analysis if own else ""
        seen[label] = seen.get(label, 0) + 1
        suffix = f" ({seen[label]})" if seen[label] > 1 else ""  # the same analysis twice, by its place
        for number in own:
            yield dataclasses.replace(number, analysis=number.analysis + suffix)


def _numbers_of(analysis: Analysis, noise: float) -> Iterator[Number]:
    match analysis:
        case Eigs():
            label = f"eigs {analysis.operator} {analysis.which}"
            for place, pair in zip(ranks(analysis), analysis.eigenvalues, strict=True):
                known = pair.population
                value = ComparedValue(
                    value=pair.value,
                    error=pair.error_bound,
                    error_kind="bound",
                    data_stderr=pair.data_stderr,
                    population=None if known is None else (known.low, known.high),
                )
                tag = _tag_of_pair(analysis, place)
                yield Number(label, f"eigenvalue {place}", value, _of_matrix(analysis.operator, tag))
            for name, layer in (analysis.per_layer or {}).items():
                tag = _of_matrix(analysis.operator, f"layers/{name}/{_FIRST[analysis.which]}")
                yield Number(label, f"layer {name}", _bound(layer.value, layer.error_bound), tag)
        case Trace():
            label, tag = f"trace {analysis.operator}", _of_matrix(analysis.operator, "trace")
            if analysis.stderr == 0.0 and analysis.ci95 is not None:  # every entry was computed
                half = (analysis.ci95[1] - analysis.ci95[0]) / 2
                yield Number(label, "trace", _bound(analysis.value, half), tag)
            else:
                yield from _estimates(label, "trace", analysis.value, analysis.stderr, noise, tag)
            for name, block in (analysis.per_layer or {}).items():
                tag = _of_matrix(analysis.operator, f"layers/{name}/trace")
                yield from _estimates(label, f"layer {name}", block.value, block.stderr, noise, tag)
        case Density():
            label = f"density {analysis.operator}"
            for name, tag, share in (
                ("share below zero", "share_below_zero", analysis.below_zero),
                (f"share within {analysis.near:.4g} of zero", "share_near_zero", analysis.near_zero),
            ):
                half = max(share.high - share.value, share.value - share.low, noise)  # what the nodes leave possible
                yield Number(label, name, _bound(share.value, half), _of_matrix(analysis.operator, tag))
            tag = _of_matrix(analysis.operator, "trace_by_density")
            yield from _estimates(label, "trace", analysis.trace, analysis.trace_stderr, noise, tag)
        case Diag():
            label, tag = f"diag {analysis.operator}", _of_matrix(analysis.operator, "trace_by_diagonal")
            yield from _estimates(label, "sum", analysis.sum, analysis.sum_stderr, noise, tag)
        case JacNorm():
            for name, summary, spread in (
                ("spectral", analysis.spectral, analysis.spectral_max_error),
                ("Frobenius", analysis.frobenius, analysis.frobenius_max_stderr),
            ):
                if summary is not None:
                    over_data = summary.std / math.sqrt(max(analysis.num_examples, 1))
                    error = max(spread or 0.0, noise * abs(summary.mean))
                    mean = ComparedValue(value=summary.mean, error=error, error_kind="bound", data_stderr=over_data)
                    tag = f"jacobian_{name.lower()}_norm"
                    yield Number("jacnorm", f"mean {name} norm", mean, f"{tag}_mean")
                    worst = max(spread or 0.0, noise * abs(summary.max))
                    yield Number("jacnorm", f"largest {name} norm", _bound(summary.max, worst), f"{tag}_max")


def _bound(value: float, error: float) -> ComparedValue:
    return ComparedValue(value=value, error=error, error_kind="bound")


_FIRST = {"la": "lambda_max", "sa": "lambda_min", "lm": "lambda_abs_max", "be": "lambda_max"}


def _tag_of_pair(eigs: Eigs, place: int) -> str:
    """`lambda_max`, `lambda_2`, … from above, `lambda_min`, `lambda_min_2`, … from below."""
    if place == 1:
        return _FIRST[eigs.which]
    if place == -1:
        return "lambda_min"
    name = "lambda_min" if place < 0 else {"sa": "lambda_min", "lm": "lambda_abs"}.get(eigs.which, "lambda")
    return f"{name}_{abs(place)}"


def ranks(eigs: Eigs) -> list[int]:
    """1, 2, … in the order of `which`; of both ends the lower half as …, -2, -1, counted from the smallest."""
    num = len(eigs.eigenvalues)
    above = -(-num // 2) if eigs.which == "be" else num
    return [*range(1, above + 1), *range(above - num, 0)]


def _of_matrix(operator: str, tag: str) -> str:
    """The Hessian's numbers have no prefix."""
    return tag if operator == "hessian" else f"{operator}/{tag}"


def _estimates(label: str, name: str, value: float, stderr: float | None, noise: float, tag: str) -> Iterator[Number]:
    """A number by probes, or with a bound where every entry was computed; none where no error is known."""
    if stderr:
        yield Number(label, name, ComparedValue(value=value, error=stderr, error_kind="stderr"), tag)
    elif stderr is not None:
        yield Number(label, name, _bound(value, noise * abs(value)), tag)


def numbers(found: Report | Sequence[TrackRow]) -> list[dict[str, Any]]:
    """A dictionary a number: `analysis`, `name`, `value`, `error`, `error_kind`, `data_stderr`; for the rows of `track`
    also `run`, `checkpoint` and `step`.

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
        "data_stderr": value.data_stderr,
    }
