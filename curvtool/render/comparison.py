"""A comparison of reports for a reader."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from curvtool import registry
from curvtool.render.analyses import title_of
from curvtool.render.chart_types import Chart, Series
from curvtool.render.numbers import number, percent, percents, with_error
from curvtool.render.table_parts import least_width, markdown_table, new_table
from curvtool.report.comparison import Comparison
from curvtool.report.difference import ComparedQuantity, Difference
from curvtool.report.numbers import ComparedValue
from curvtool.vocabulary import MATRICES
from curvtool.words import counted

_SHORT = 20
_OTHERS = {"problem": "Loss and gradient"}
_WHICH = {"la": "largest", "sa": "smallest", "lm": "largest in magnitude", "be": "both ends"}
_LEAST_P = 1e-9
_LEAST_VERDICT = 17  # columns, within which no number of a verdict is broken


def show(comparison: Comparison, console: Console) -> None:
    """What differs in the settings, then every number with its verdict."""
    for sentence in verdict(comparison):
        console.print(sentence, style="bold", markup=False, highlight=False)
    settings = new_table("Settings that differ", console)
    for name in ("", *comparison.names):
        settings.add_column(escape(name), overflow="fold")
    for name, values in comparison.settings.items():
        settings.add_row(escape(name), *map(escape, values))
    if comparison.settings:
        console.print(settings)
    for analysis in dict.fromkeys(q.analysis for q in comparison.quantities):
        quantities = [q for q in comparison.quantities if q.analysis == analysis]
        tables = (_table(comparison, analysis, quantities, console, broken) for broken in (False, True))
        fitting = next((table for table in tables if least_width(table) <= console.width), None)
        if fitting is not None:
            console.print(fitting)
        else:
            _show_list(comparison, analysis, quantities, console)
    for text in comparison.not_compared:
        console.print(f"not compared: {text}", style="yellow", markup=False, highlight=False)
    console.print(note(comparison), style="dim", markup=False, highlight=False)


def _table(
    comparison: Comparison, analysis: str, quantities: Sequence[ComparedQuantity], console: Console, broken: bool
) -> Table:
    """A column a report; `broken`: values above their errors."""
    table = new_table(_title(analysis), console)
    longest_word = max(len(word) for quantity in quantities for word in quantity.name.split())
    for name in _header(comparison):
        if name == "" or name.endswith("verdict"):
            least = max(_LEAST_VERDICT, len(name)) if name else longest_word
            table.add_column(escape(name), overflow="fold", min_width=least)
        else:
            table.add_column(escape(name), justify="right", no_wrap=True)
    for quantity in quantities:
        table.add_row(*(escape(_broken(cell) if broken else cell) for cell in _row(quantity)))
    return table


def _show_list(comparison: Comparison, analysis: str, quantities: Sequence[ComparedQuantity], console: Console) -> None:
    """A line a report, where a terminal has no room for a column each: a number that is broken is another number."""
    width = max(map(len, names := _short_names(comparison)))
    table = Table.grid(padding=(0, 0, 0, 2))
    table.add_column(overflow="fold")
    for quantity in quantities:
        table.add_row(escape(quantity.name))
        for place, (name, value) in enumerate(zip(names, quantity.values, strict=True)):
            table.add_row(escape(f"  {name:{width}}  {_value(value)}"))
            difference = quantity.differences[place - 1] if place else None
            if place and difference is not None:
                table.add_row(Padding(escape(f"{_change(difference)}: {_word(difference)}"), (0, 0, 0, 4)))
            elif place:
                table.add_row(Padding(_word(None), (0, 0, 0, 4)))
    console.print(escape(_title(analysis)), style="bold")
    console.print(table)
    console.print()


def verdict(comparison: Comparison) -> list[str]:
    """How many numbers differ."""
    told = []
    for place, name in enumerate(comparison.names[1:]):
        made = [d for q in comparison.quantities if (d := q.differences[place]) is not None]
        beyond = sum(d.exceeds for d in made)
        told.append(
            f"{name}: {beyond} of {counted(len(made), 'number')} {'differs' if beyond == 1 else 'differ'} from "
            f"{comparison.names[0]}'s by more than the errors."
        )
    return told


def note(comparison: Comparison) -> str:
    """What the errors and the tests mean."""
    data = (
        "the same data: `over data p` supposes independent samples, and is too large here"
        if comparison.same_data
        else "different data: a difference may be theirs"
    )
    missed = any(d is not None and d.missed for q in comparison.quantities for d in q.differences)
    told = (
        "`one may be missed`: these eigenvalues differ by more than the errors, but may both be of one matrix, if a "
        "list lacks one; the random start of the search does not exclude that, and `--check full` excludes more. "
    )
    return (told if missed else "") + (
        "Errors are those of the computation, at 95 % where they come from probes. Values with error "
        "bounds differ if the bounds do not overlap. Estimates by "
        "probes are tested (Student's t with the degrees of freedom of both, 5 % for all together by Holm). "
        f"{data[0].upper()}{data[1:]}."
    )


def _title(analysis: str) -> str:
    """`eigs hessian la` in words; a number in brackets, of the same analysis twice, stays."""
    kind, *rest = analysis.split()
    title = title_of(kind) if kind in registry.kinds() else _OTHERS.get(kind, kind)
    for word in rest:
        title += (
            f" of the {MATRICES[word]}" if word in MATRICES else f" ({_WHICH[word]})" if word in _WHICH else f" {word}"
        )
    return title


def _header(comparison: Comparison) -> list[str]:
    names = _short_names(comparison)
    per_other = ["difference", "verdict"] if len(names) == 2 else [f"{name}: verdict" for name in names[1:]]
    return ["", *names, *per_other]


def _short_names(comparison: Comparison) -> list[str]:
    return [name if len(name) <= _SHORT else "…" + name[1 - _SHORT :] for name in comparison.names]


def _row(quantity: ComparedQuantity) -> list[str]:
    cells = [quantity.name, *(_value(value) for value in quantity.values)]
    if len(quantity.differences) == 1:
        difference = quantity.differences[0]
        cells.append("-" if difference is None else _change(difference))
    return [*cells, *(_word(difference) for difference in quantity.differences)]


def _broken(cell: str) -> str:
    """A value above its error, a difference above its share, a verdict above its reason."""
    return re.sub(r" (?=\+- |\([+-])|(?<=[;,]) (?=over|p [=<] )", "\n", cell)


def _value(value: ComparedValue | None) -> str:
    if value is None:
        return "-"
    if value.share is not None:
        ends = percents(value.share.low, value.share.high)
        return f"{percent(value.value, 3)} ({ends})" if value.share.is_known else ends
    half = max(value.high - value.value, value.value - value.low)
    return f"{with_error(value.value, half)} +- {number(half, 2)}"


def _change(difference: Difference) -> str:
    if difference.relative is None:
        return number(difference.difference, 3)
    sign = "+" if difference.difference > 0 else ""
    return f"{sign}{number(difference.difference, 3)} ({sign}{percent(difference.relative)})"


def _word(difference: Difference | None) -> str:
    if difference is None:
        return "not compared"
    told = "differs" if difference.exceeds else "one may be missed" if difference.missed else "within the errors"
    if difference.p_adjusted is not None:
        told += f", {_p(difference.p_adjusted)}"
    if difference.p_data is not None:
        told += f"; over data {_p(difference.p_data)}"
    return told


def _p(value: float) -> str:
    """A p-value; smaller ones than an approximation is good for are told as such."""
    return f"p = {number(value, 2)}" if value >= _LEAST_P else "p < 1e-9"


def csv(comparison: Comparison) -> tuple[list[str], list[list[Any]]]:
    """A row a number and report."""
    header = [
        "analysis", "quantity", "report", "value", "error", "error_kind", "degrees_of_freedom", "low", "high",
        "data_stderr", "difference", "exceeds", "missed", "p_value", "p_adjusted", "p_data",
    ]  # fmt: skip
    rows: list[list[Any]] = []
    for quantity in comparison.quantities:
        for place, (name, value) in enumerate(zip(comparison.names, quantity.values, strict=True)):
            if value is None:
                continue
            d = quantity.differences[place - 1] if place else None
            told = [""] * 6 if d is None else [d.difference, d.exceeds, d.missed, d.p_value, d.p_adjusted, d.p_data]
            rows.append(
                [
                    quantity.analysis,
                    quantity.name,
                    name,
                    value.value,
                    value.error,
                    value.error_kind,
                    value.degrees_of_freedom,
                    value.low,
                    value.high,
                    value.data_stderr,
                    *told,
                ]
            )
    return header, rows


def markdown(comparison: Comparison) -> list[str]:
    """Settings and numbers."""
    lines = [*verdict(comparison), ""]
    if comparison.settings:
        rows = [[name, *values] for name, values in comparison.settings.items()]
        lines += [*markdown_table(["setting", *comparison.names], rows), ""]
    header = _header(comparison)
    lines += markdown_table(
        ["analysis", "quantity", *header[1:]], [[q.analysis, *_row(q)] for q in comparison.quantities]
    )
    lines += ["", *(f"- not compared: {text}" for text in comparison.not_compared), note(comparison)]
    return lines


def charts(comparison: Comparison) -> list[Chart]:
    """The numbers of every analysis side by side."""
    found = []
    step = 0.5 / len(comparison.names)
    for analysis in dict.fromkeys(q.analysis for q in comparison.quantities if q.analysis != "problem"):
        quantities = [q for q in comparison.quantities if q.analysis == analysis]
        if analysis.startswith("density"):  # beside the trace, shares would be points at 0
            quantities = [q for q in quantities if q.name != "trace"]
        series = []
        for place, name in enumerate(comparison.names):
            told = [(i, v) for i, q in enumerate(quantities) if (v := q.values[place]) is not None]
            series.append(
                Series(
                    name,
                    "points",
                    [i + step * (place - (len(comparison.names) - 1) / 2) for i, _ in told],
                    [v.value for _, v in told],
                    [v.low for _, v in told],
                    [v.high for _, v in told],
                )
            )
        caption = "Error bars: the estimated errors; of estimates by probes 95 % intervals."
        names = tuple(quantity.name for quantity in quantities)
        found.append(Chart(_title(analysis), "quantity", "value", tuple(series), caption, names))
    return found
