"""The diagonal for a reader."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from curvtool.render.charts import Chart, Series
from curvtool.render.numbers import count, number, percent, with_error
from curvtool.render.tables import MATRICES, filled_table, markdown_table, print_tables
from curvtool.report.model import Diag
from curvtool.report.numbers import half_width_of
from curvtool.words import counted

_COLUMNS = ("parameter", "entries", "mean", "min", "max", "below 0")


def verdict(diag: Diag) -> list[str]:
    """What the numbers say, in words."""
    largest = max(diag.per_parameter, key=lambda name: diag.per_parameter[name].mean, default=None)
    told = [f"{percent(diag.summary.negative)} of {counted(diag.summary.num, 'entry')} below zero."]
    if largest is not None:
        mean = number(diag.per_parameter[largest].mean, 3)
        told.append(f"Largest on average in {largest}: {mean} an entry, {number(diag.summary.mean, 3)} overall.")
    return told


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
        half = half_width_of(diag, diag.num_passes)
        whole = f"sum {with_error(diag.sum, half)} (95 %: +- {number(half, 2)})"
    if diag.method == "exact":
        told = "every entry was computed (rounding remains)"
    else:
        told = f"{counted(diag.num_passes, 'pass')}, a probe for each of {counted(diag.num_terms, 'group')} of samples"
        if diag.relative_error is not None:
            told += f"; relative error {number(diag.relative_error, 2)} (norm of all standard errors over the norm)"
    where = f"entries: {diag.file}" if diag.file else "entries by parameter name: --out diagonal.safetensors"
    return [whole, told + ".", f"method {diag.method}: {diag.method_reason}.", where]


def _rows(diag: Diag) -> list[list[str]]:
    return [
        [name, count(s.num), number(s.mean, 3), number(s.min, 3), number(s.max, 3), percent(s.negative)]
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
    caption = "Bars: from the smallest to the largest entry."
    names = tuple(name for name, _ in summaries)
    return [Chart(f"Diagonal of the {MATRICES[diag.operator]}", "parameter", "entry", (points,), caption, names)]


def csv(diag: Diag) -> tuple[list[str], list[list[Any]]]:
    """A row a parameter, and one for all."""
    header = ["parameter", "num", "mean", "min", "max", "negative"]
    summaries = [*diag.per_parameter.items(), ("all", diag.summary)]
    return header, [[name, s.num, s.mean, s.min, s.max, s.negative] for name, s in summaries]


def markdown(diag: Diag) -> list[str]:
    """Each parameter's entries, and their sum."""
    return [
        *markdown_table(_COLUMNS, _rows(diag)),
        "",
        f"Sum {number(diag.sum, 5)}, standard error {number(diag.sum_stderr, 2)}"
        + (f", {number(diag.degrees_of_freedom, 3)} degrees of freedom." if diag.degrees_of_freedom else "."),
    ]
