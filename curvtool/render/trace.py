"""The trace for a reader."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from curvtool.render.numbers import counted, number, with_error
from curvtool.render.tables import MATRICES, markdown_table, new_table
from curvtool.report.model import Trace


def show(trace: Trace, console: Console) -> None:
    """The estimate with its interval."""
    table = new_table(f"Trace of the {MATRICES[trace.operator]}", console)
    for name in ("trace", "95 % interval", "relative half-width", "standard error"):
        table.add_column(name, justify="right", no_wrap=True)
    if trace.ci95 is None:
        table.add_row(number(trace.value, 5), "-", "-", "-")
    else:
        half = (trace.ci95[1] - trace.ci95[0]) / 2
        table.add_row(
            with_error(trace.value, half),
            f"{with_error(trace.ci95[0], half)} to {with_error(trace.ci95[1], half)}",
            f"{100 * half / abs(trace.value):.2g} %" if trace.value else "-",
            number(trace.stderr, 2),
        )
    console.print(table)
    console.print(
        f"{trace.num_passes} passes, a probe for each of {counted(trace.num_terms, 'group')} of samples; "
        "the interval covers the probes' error, not the data's.",
        style="dim",
    )


def csv(trace: Trace) -> tuple[list[str], list[list[Any]]]:
    """One row."""
    low, high = trace.ci95 or ("", "")
    return ["trace", "stderr", "ci95_low", "ci95_high", "num_passes", "converged"], [
        [trace.value, trace.stderr, low, high, trace.num_passes, trace.converged]
    ]


def markdown(trace: Trace) -> list[str]:
    """The estimate with its interval."""
    interval = "-" if trace.ci95 is None else f"{trace.ci95[0]:.5g} to {trace.ci95[1]:.5g}"
    row = [number(trace.value, 5), interval, number(trace.stderr, 2)]
    return markdown_table(["trace", "95 % interval", "standard error"], [row])
