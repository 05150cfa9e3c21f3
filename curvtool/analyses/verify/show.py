"""Several tools' numbers for a reader."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from curvtool.analyses.verify.record import Verify, Way
from curvtool.render.chart_types import Chart, Series
from curvtool.render.numbers import number, seconds_text, with_error
from curvtool.render.table_parts import markdown_table, new_table

TITLE = "Verification"


def verdict(verify: Verify) -> list[str]:
    """What the numbers say, in words."""
    return [verify.verdict]


def show(verify: Verify, console: Console) -> None:
    """A column a tool, then the verdict."""
    table = new_table("The same problem by several ways", console)
    table.add_column("")
    for way in verify.ways:
        table.add_column(way.tool, justify="right", no_wrap=True)
    for name, *cells in _rows(verify):
        table.add_row(name, *cells)
    console.print(table)
    for way in verify.ways:
        for note in way.notes:
            console.print(f"{way.tool}: {note}", style="dim", markup=False, highlight=False)


def _rows(verify: Verify) -> list[list[str]]:
    num = max(len(way.eigenvalues) for way in verify.ways)
    rows = [[f"eigenvalue {i + 1}", *(_eigenvalue(way, i) for way in verify.ways)] for i in range(num)]
    rows.append(["trace", *(with_error(w.trace, w.trace_error or 1e-6 * abs(w.trace)) for w in verify.ways)])
    rows.append(["products", *(f"{round(way.num_hvps, 1):g}" for way in verify.ways)])
    rows.append(["time", *(seconds_text(way.seconds) for way in verify.ways)])
    rows.append(["agrees", *({True: "yes", False: "no", None: ""}[way.agrees] for way in verify.ways)])
    return rows


def _eigenvalue(way: Way, place: int) -> str:
    if place >= len(way.eigenvalues):
        return "-"
    value = way.eigenvalues[place]
    return with_error(value, way.eigenvalue_errors[place]) if way.eigenvalue_errors else number(value, 8)


def charts(verify: Verify) -> list[Chart]:
    """The eigenvalues by every tool, side by side."""
    num = max(len(way.eigenvalues) for way in verify.ways)
    step = 0.6 / max(len(verify.ways), 1)
    found = []
    for place, way in enumerate(verify.ways):
        errors = way.eigenvalue_errors or [0.0] * len(way.eigenvalues)
        pairs = list(zip(way.eigenvalues, errors, strict=True))
        found.append(
            Series(
                way.tool,
                "points",
                [i + step * place for i in range(len(pairs))],
                [value for value, _ in pairs],
                [value - error for value, error in pairs],
                [value + error for value, error in pairs],
            )
        )
    names = tuple(str(i + 1) for i in range(num))
    return [Chart("Eigenvalues by several ways", "rank", "eigenvalue", tuple(found), verify.verdict, names)]


def csv(verify: Verify) -> tuple[list[str], list[list[Any]]]:
    """A row a number."""
    rows: list[list[Any]] = []
    for way in verify.ways:
        rows += [[way.tool, f"eigenvalue {i}", value] for i, value in enumerate(way.eigenvalues)]
        rows += [[way.tool, "trace", way.trace], [way.tool, "num_hvps", way.num_hvps]]
    return ["tool", "quantity", "value"], rows


def markdown(verify: Verify) -> list[str]:
    """A column a tool, then the verdict."""
    header = ["", *(way.tool for way in verify.ways)]
    return [*markdown_table(header, _rows(verify)), "", verify.verdict]
