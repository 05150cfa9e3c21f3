"""The rows of `track` for a reader."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from rich.console import Console

from curvtool.render.chart_types import Chart, Series, spans_decades
from curvtool.render.numbers import number, with_error
from curvtool.render.table_parts import csv_text, filled_table, markdown_table, print_tables, width_of
from curvtool.report.headline import Headline, Ratio, band_of, headline_of, name_of, words_of
from curvtool.report.model import TrackRow
from curvtool.vocabulary import MATRICES
from curvtool.words import counted

_SHOWN = 1e-5  # relative; more digits are in the file
_SHOWN_ROWS = 200  # at either end of a table on a terminal, which is slow to lay out; files have every row


def row_line(row: TrackRow) -> str:
    """A line."""
    told = []
    for place, analysis in enumerate(row.analyses):
        first = _first(row, place)
        if first is not None:
            told.append(f"{name_of(analysis)} {_value(first)} +- {number(first.error, 2)}")
        if first is not None and first.ratio is not None:
            told.append(f"{first.ratio.name} {number(first.ratio.value, 4)}")
    path = PurePath(row.checkpoint)
    where = PurePath(path.parent.name) / path.name
    return f"{where}: {'; '.join(told)} ({counted(_products(row), 'product', 'g')}, {row.start} start)"


def verdict(rows: Sequence[TrackRow]) -> list[str]:
    """How far the first number went in every run, and how often it was above 2 / learning rate."""
    told = []
    several = len({row.run for row in rows}) > 1
    for run in dict.fromkeys(row.run for row in rows):
        own = [row for row in rows if row.run == run and row.analyses]
        points = [(_step(place, row), first) for place, row in enumerate(own) if (first := _first(row, 0)) is not None]
        if not points:
            continue
        ends = [min(points, key=lambda point: point[1].value), max(points, key=lambda point: point[1].value)]
        reached = " and ".join(dict.fromkeys(f"{_value(end)} (step {step:g})" for step, end in ends))
        between = "between " if " and " in reached else ""
        text = (f"{PurePath(run).name}: " if several else "") + f"{words_of(own[0].analyses[0])} {between}{reached}"
        ratios = [first.ratio for _, first in points if first.ratio is not None]
        if ratios:
            above = sum(each.is_above for each in ratios)
            text += f"; above {ratios[0].edge_name} at {above} of {counted(len(ratios), 'checkpoint')}"
        told.append(f"{text}.")
    return told


def print_rows(rows: Sequence[TrackRow], console: Console) -> None:
    """A table a run, a line a checkpoint; what matters least is left out where the terminal is narrow."""
    for sentence in verdict(rows):
        console.print(sentence, style="bold", markup=False, highlight=False)
    runs = dict.fromkeys(row.run for row in rows)
    for run in runs:
        own = [row for row in rows if row.run == run]
        title = (f"{run}: " if len(runs) > 1 else "") + f"{len(own)} checkpoint" + ("s" if len(own) != 1 else "")
        between = len(own) - 2 * _SHOWN_ROWS
        columns = _columns(own if between <= 1 else [*own[:_SHOWN_ROWS], *own[-_SHOWN_ROWS:]])
        left_out = []
        for name in ("start", "products", "grad norm", "loss"):
            if width_of(filled_table("", columns, console)) > console.width:
                left_out.append(name)
                del columns[name]
        words = "step" if any(row.step is None for row in own) else None
        print_tables([filled_table(title, columns, console, text=words)], console)
        if between > 1:
            console.print(f"{between:,} rows between them are not shown: -o FILE.csv has all", style="dim")
        if left_out:
            console.print(f"left out, the terminal being narrow: {', '.join(left_out)}", style="dim")
    if any(row.status != "complete" for row in rows):
        console.print("* not converged, or stopped: see the warnings in the row")


def _columns(rows: Sequence[TrackRow]) -> dict[str, list[str]]:
    """Cells by header."""
    named = [str(row.step) if row.step is not None else PurePath(row.checkpoint).name for row in rows]
    columns = {
        "step": [name + ("" if row.status == "complete" else " *") for name, row in zip(named, rows, strict=True)]
    }
    columns["loss"] = [number(row.problem.loss_value, 4) for row in rows]
    columns["grad norm"] = [number(row.problem.grad_norm, 3) for row in rows]
    for place, first in enumerate(rows[0].analyses):
        name = name_of(first)
        name = name if name not in columns else f"{name} ({place + 1})"
        points = [_first(row, place) for row in rows]
        columns[name] = ["-" if point is None else _value(point) for point in points]
        columns["+-" + " " * place] = ["-" if point is None else number(point.error, 2) for point in points]
        ratios = [None if point is None else point.ratio for point in points]
        known = next((ratio for ratio in ratios if ratio is not None), None)
        if known is not None:
            columns[known.name] = ["-" if each is None else number(each.value, 4) for each in ratios]
    columns["products"] = [f"{_products(row):g}" for row in rows]
    columns["start"] = [row.start for row in rows]
    return columns


def _first(row: TrackRow, place: int) -> Headline | None:
    """The first number of its analysis at this place."""
    return headline_of(row.analyses[place]) if place < len(row.analyses) else None


def _value(first: Headline) -> str:
    return with_error(first.value, max(first.error, _SHOWN * abs(first.value)))


def _products(row: TrackRow) -> float:
    made = round(sum(each.cost.num_hvps for each in row.analyses), 1)
    return int(made) if made == int(made) else made


def charts(rows: Sequence[TrackRow]) -> list[Chart]:
    """The first number of every analysis over the steps, a line a run; the largest eigenvalue against 2 / lr."""
    found = []
    for place, analysis in enumerate(rows[0].analyses if rows else []):
        runs = {run: [r for r in rows if r.run == run] for run in dict.fromkeys(row.run for row in rows)}
        series = []
        for run, own in runs.items():
            told = [(_step(i, row), first) for i, row in enumerate(own) if (first := _first(row, place)) is not None]
            x, y = [step for step, _ in told], [each.value for _, each in told]
            low, high = [each.low for _, each in told], [each.high for _, each in told]
            series.append(Series(PurePath(run).name or "run", "line", x, y, low, high))
        if not any(each.x for each in series):
            continue
        what, caption = words_of(analysis), band_of(analysis)
        matrix = MATRICES.get(getattr(analysis, "operator", ""))
        title = what if matrix is None else f"{what} of the {matrix}"
        values = [y for each in series for y in each.y if y is not None]
        series += _edges(runs, place)
        found.append(Chart(f"{title} over training", "step", what.lower(), tuple(series), caption,
                           log_y=spans_decades(values)))  # fmt: skip
    return found


def _edges(runs: Mapping[str, Sequence[TrackRow]], place: int) -> list[Series]:
    """The values at the threshold, of the rows that know it: one line where all have the same, else a line a run."""
    edges: dict[str, list[tuple[float, Ratio]]] = {}
    for run, rows in runs.items():
        for number_, row in enumerate(rows):
            first = _first(row, place)
            if first is not None and first.ratio is not None:
                edges.setdefault(run, []).append((_step(number_, row), first.ratio))
    heights = {ratio.edge for told in edges.values() for _, ratio in told}
    if len(heights) == 1:
        steps = [step for told in edges.values() for step, _ in told]
        name, height = next(iter(edges.values()))[0][1].edge_name, heights.pop()
        return [Series(f"{name} = {height:.3g}", "line", [min(steps), max(steps)], [height, height])]
    lines = []
    for run, told in edges.items():
        name = told[0][1].edge_name + (f" ({PurePath(run).name})" if len(runs) > 1 else "")
        lines.append(Series(name, "line", [step for step, _ in told], [ratio.edge for _, ratio in told]))
    return lines


def _step(number: int, row: TrackRow) -> float:
    return float(row.step if row.step is not None else number)


def table(rows: Sequence[TrackRow]) -> tuple[list[str], list[list[Any]]]:
    """Header and rows, a row a checkpoint, at full precision."""
    kinds = [name_of(each) for each in rows[0].analyses] if rows else []
    header = ["run", "checkpoint", "step", "loss", "grad_norm"]
    header += [name for kind in kinds for name in (kind, f"{kind}_low", f"{kind}_high")]
    header += ["learning_rate", "products", "start"]
    found = []
    for row in rows:
        points = [_first(row, place) for place in range(len(kinds))]
        values = [v for p in points for v in ((p.value, p.low, p.high) if p is not None else ("", "", ""))]
        facts = [row.run, PurePath(row.checkpoint).name, row.step, row.problem.loss_value, row.problem.grad_norm]
        lr = next((p.ratio.setting for p in points if p is not None and p.ratio is not None), "")
        found.append([*facts, *values, lr, _products(row), row.start])
    return header, found


def to_csv(rows: Sequence[TrackRow]) -> str:
    """A row a checkpoint."""
    return csv_text(*table(rows))


def to_markdown(rows: Sequence[TrackRow]) -> str:
    """Likewise."""
    header, found = table(rows)
    shown = [[number(cell, 6) if isinstance(cell, float) else cell for cell in row] for row in found]
    return "\n".join(markdown_table(header, shown)) + "\n"


def to_json_lines(rows: Sequence[TrackRow]) -> str:
    """As they stand in the file."""
    return "".join(json.dumps(row.model_dump(mode="json"), allow_nan=False) + "\n" for row in rows)
