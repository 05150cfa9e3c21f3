"""The ways to run a product, for a reader."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from curvtool.analyses.check.record import Check
from curvtool.render.chart_types import Chart, Series
from curvtool.render.numbers import bytes_text, number, seconds_text
from curvtool.render.table_parts import markdown_table, new_table
from curvtool.vocabulary import MATRICES
from curvtool.words import counted

TITLE = "Check"
SHOWS_PREFLIGHT = True


def verdict(check: Check) -> list[str]:
    """What the numbers say, in words."""
    if not check.seconds_by_mode:
        return []
    fastest = min(check.seconds_by_mode, key=lambda mode: check.seconds_by_mode[mode])
    return [f"Fastest: {fastest}."]


def show(check: Check, console: Console) -> None:
    """Each way with its time, or why it was left out."""
    samples = counted(check.calibration_samples, "sample")
    table = new_table(f"Products with the {MATRICES[check.operator]} on {samples}", console)
    table.add_column("way")
    table.add_column("time", justify="right", no_wrap=True)
    for mode, seconds in check.seconds_by_mode.items():
        table.add_row(mode, seconds_text(seconds))
    if check.seconds_by_mode:
        console.print(table)
    else:
        console.print("no way to run a product was timed: only one was left to take", highlight=False)
    for mode, reason in check.rejected_modes.items():
        console.print(f"left out: {mode}: {reason}", markup=False, highlight=False)
    console.print(
        f"a kept graph takes {bytes_text(check.graph_bytes_per_sample)} a sample; batches of {check.batch_size}",
        highlight=False,
    )


def charts(check: Check) -> list[Chart]:
    """The time of each way to run a product."""
    names = tuple(check.seconds_by_mode)
    if not names:
        return []
    times = Series("one product", "bars", [float(i) for i in range(len(names))], list(check.seconds_by_mode.values()))
    samples = counted(check.calibration_samples, "sample")
    return [Chart(f"Products on {samples}", "way", "seconds", (times,), "", names)]


def csv(check: Check) -> tuple[list[str], list[list[Any]]]:
    """A row a way."""
    rows: list[list[Any]] = [[mode, seconds, ""] for mode, seconds in check.seconds_by_mode.items()]
    return ["way", "seconds", "left_out"], rows + [[mode, "", why] for mode, why in check.rejected_modes.items()]


def markdown(check: Check) -> list[str]:
    """Each way with its time, or why it was left out."""
    rows = [[mode, number(seconds, 2)] for mode, seconds in check.seconds_by_mode.items()]
    return markdown_table(["way", "seconds"], rows + [[mode, why] for mode, why in check.rejected_modes.items()])
