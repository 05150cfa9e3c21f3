"""The diagonal for a reader."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from curvtool.analyses.diag.facts import degrees_of, half_width_of_sum
from curvtool.analyses.diag.record import Diag, EntriesSummary
from curvtool.render.chart_types import Chart, Series
from curvtool.render.numbers import count, number, percent, percents, with_error
from curvtool.render.table_parts import filled_table, markdown_table, print_tables
from curvtool.report.numbers import half_width
from curvtool.vocabulary import MATRICES
from curvtool.words import counted

_COLUMNS = ("parameter", "entries", "mean", "95 % +-", "min", "max", "below 0")
_OPEN = 0.1  # of a share, above which more passes are named

TITLE = "Diagonal"


def verdict(diag: Diag) -> list[str]:
    """What the numbers say, in words."""
    largest = max(diag.per_parameter, key=lambda name: diag.per_parameter[name].mean, default=None)
    share, entries = _below_zero(diag.summary), counted(diag.summary.num, "entry")
    told = [f"{share[0].upper()}{share[1:]} of {entries} below zero{_remedy(diag)}."]
    if diag.summary.negative_interval == (0.0, 1.0):
        told = [f"How many of {entries} lie below zero is not known{_remedy(diag)}."]
    if largest is not None:
        own, whole = (_mean(each, diag) for each in (diag.per_parameter[largest], diag.summary))
        told.append(f"Largest on average in {largest}: {own} an entry, {whole} overall.")
    return told


def _below_zero(summary: EntriesSummary) -> str:
    """The share, as an interval where errors leave it open."""
    ends = summary.negative_interval
    return percent(summary.negative) if ends is None else percents(*ends, 2)


def _remedy(diag: Diag) -> str:
    ends = diag.summary.negative_interval
    if diag.method == "exact" or not ends or ends[1] - ends[0] <= _OPEN:
        return ""
    return f" ({'a smaller --rtol' if diag.converged else 'more --max-passes'} would tell more)"


def _half(summary: EntriesSummary, diag: Diag) -> float | None:
    """Half of the mean's 95 % interval; None where it is not by probes, or not known."""
    if not summary.mean_stderr:
        return None
    return half_width(summary.mean_stderr, degrees_of(diag))


def _mean(summary: EntriesSummary, diag: Diag) -> str:
    half = _half(summary, diag)
    return number(summary.mean, 3) if half is None else f"{with_error(summary.mean, half)} +- {number(half, 2)}"


def show(diag: Diag, console: Console) -> None:
    """Each parameter's entries, their sum, and how they were made."""
    columns = dict(zip(_COLUMNS, zip(*_rows(diag), strict=True), strict=True))
    table = filled_table(f"Diagonal of the {MATRICES[diag.operator]}", columns, console, text="parameter")
    print_tables([table], console)
    for text in notes(diag):
        console.print(text, markup=False, highlight=False)


def notes(diag: Diag) -> list[str]:
    """The sum with its error, and how the entries were made."""
    whole = f"sum {number(diag.sum, 6)}"
    if diag.sum_stderr:
        half = half_width_of_sum(diag)
        whole = f"sum {with_error(diag.sum, half)} (95 %: +- {number(half, 2)})"
    if diag.method == "exact":
        told = "every entry was computed (rounding remains)"
    else:
        told = f"{counted(diag.num_passes, 'pass')}, a probe for each of {counted(diag.num_terms, 'group')} of samples"
        if diag.relative_error is not None:
            told += f"; relative error {number(diag.relative_error, 2)} (norm of all standard errors over the norm)"
        told += "; min and max are those of the estimates, spread by their errors; below 0: the matrix's, 95 %"
    where = f"entries: {diag.file}" if diag.file else "entries by parameter name: --out diagonal.safetensors"
    return [whole, told + ".", f"method {diag.method}: {diag.method_reason}.", where]


def _rows(diag: Diag) -> list[list[str]]:
    return [
        [
            name,
            count(s.num),
            number(s.mean, 3),
            "-" if (half := _half(s, diag)) is None else number(half, 2),
            number(s.min, 3),
            number(s.max, 3),
            _below_zero(s),
        ]
        for name, s in [*diag.per_parameter.items(), ("all", diag.summary)]
    ]


def charts(diag: Diag) -> list[Chart]:
    """The mean entry of every parameter, and how far its entries reach."""
    summaries = list(diag.per_parameter.items())
    points = Series(
        "mean entry",
        "points",
        [float(i) for i in range(len(summaries))],
        [summary.mean for _, summary in summaries],
        [summary.min for _, summary in summaries],
        [summary.max for _, summary in summaries],
    )
    caption = "Bars: from the smallest to the largest entry" + ("." if diag.method == "exact" else ", as estimated.")
    names = tuple(name for name, _ in summaries)
    return [Chart(f"Diagonal of the {MATRICES[diag.operator]}", "parameter", "entry", (points,), caption, names)]


def csv(diag: Diag) -> tuple[list[str], list[list[Any]]]:
    """A row a parameter, and one for all."""
    header = ["parameter", "num", "mean", "mean_stderr", "min", "max", "negative", "negative_low", "negative_high"]
    summaries = [*diag.per_parameter.items(), ("all", diag.summary)]
    return header, [
        [name, s.num, s.mean, s.mean_stderr, s.min, s.max, s.negative, *(s.negative_interval or (None, None))]
        for name, s in summaries
    ]


def markdown(diag: Diag) -> list[str]:
    """Each parameter's entries, and their sum."""
    return [
        *markdown_table(_COLUMNS, _rows(diag)),
        "",
        f"Sum {number(diag.sum, 5)}, standard error {number(diag.sum_stderr, 2)}"
        + (f", {number(diag.degrees_of_freedom, 3)} degrees of freedom." if diag.degrees_of_freedom else "."),
    ]
