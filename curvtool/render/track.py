"""The rows of `track` for a reader."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from rich.console import Console

from curvtool.render.charts import Chart, Series, spans_decades
from curvtool.render.numbers import number, with_error
from curvtool.render.tables import MATRICES, csv_text, markdown_table, new_table
from curvtool.report.model import Analysis, Eigs, Trace, TrackRow


def row_line(row: TrackRow) -> str:
    """A line."""
    told = "; ".join(text for text in map(_headline, row.analyses) if text)
    path = PurePath(row.checkpoint)
    return f"{PurePath(path.parent.name) / path.name}: {told} ({_products(row):g} products, {row.start} start)"


def print_rows(rows: Sequence[TrackRow], console: Console) -> None:
    """A table, a line a checkpoint."""
    several = len({row.run for row in rows}) > 1
    table = new_table(f"{len(rows)} checkpoint" + ("s" if len(rows) != 1 else ""), console)
    names = [*(["run"] if several else []), "step", "loss", "grad norm"]
    kinds = [f"{_name(each)}" for each in rows[0].analyses] if rows else []
    for name in [*names, *kinds, "products", "start"]:
        table.add_column(name, justify="right")
    for row in rows:
        problem = row.problem
        step = str(row.step) if row.step is not None else PurePath(row.checkpoint).name
        loss = [number(v, 5) if v is not None else "-" for v in (problem.loss_value, problem.grad_norm)]
        cells = [*([row.run] if several else []), step, *loss, *(_headline(each) or "-" for each in row.analyses)]
        table.add_row(*cells, f"{_products(row):g}", row.start + ("" if row.status == "complete" else " *"))
    console.print(table)
    if any(row.status != "complete" for row in rows):
        console.print("* not converged, or stopped: see the warnings in the row")


def _name(analysis: Analysis) -> str:
    return {"eigs": "lambda", "trace": "trace"}.get(analysis.kind, analysis.kind)


def _headline(analysis: Analysis) -> str:
    """The first number of an analysis with its error."""
    if isinstance(analysis, Eigs) and analysis.eigenvalues:
        pair = analysis.eigenvalues[0]
        return f"{with_error(pair.value, pair.error_bound)} +- {number(pair.error_bound, 2)}"
    if isinstance(analysis, Trace):
        half = (analysis.ci95[1] - analysis.ci95[0]) / 2 if analysis.ci95 is not None else None
        return number(analysis.value, 5) if half is None else f"{with_error(analysis.value, half)} +- {number(half, 2)}"
    return ""


def _products(row: TrackRow) -> float:
    return round(sum(each.cost.num_hvps for each in row.analyses), 1)


def charts(rows: Sequence[TrackRow]) -> list[Chart]:
    """The first number of every analysis over the steps, a line a run; the largest eigenvalue against 2 / lr."""
    found = []
    for place, first in enumerate(rows[0].analyses if rows else []):
        if not isinstance(first, (Eigs, Trace)):
            continue
        series = []
        for run in dict.fromkeys(row.run for row in rows):
            points = [_point(number, row, place) for number, row in enumerate(rows) if row.run == run]
            told = [point for point in points if point is not None]
            x, y, low, high = ([point[i] for point in told] for i in range(4))
            series.append(Series(PurePath(run).name or "run", "line", x, y, low, high))
        stability = first.stability if isinstance(first, Eigs) else None
        steps = [x for each in series for x in each.x]
        if stability is not None and steps:
            edge = 2 / stability.lr
            series.append(Series(f"2 / learning rate = {edge:.3g}", "line", [min(steps), max(steps)], [edge, edge]))
        what = "Largest eigenvalue" if isinstance(first, Eigs) and first.which in {"la", "be"} else _name(first)
        caption = "Bands: the estimated error." if isinstance(first, Eigs) else "Bands: the 95 % interval."
        values = [y for each in series for y in each.y if y is not None]
        title = f"{what} of the {MATRICES[first.operator]} over training"
        found.append(Chart(title, "step", what.lower(), tuple(series), caption, log_y=spans_decades(values)))
    return found


def _point(number: int, row: TrackRow, place: int) -> tuple[float, float, float, float] | None:
    """Step, value, and the ends of its error bar."""
    analysis = row.analyses[place] if place < len(row.analyses) else None
    step = float(row.step if row.step is not None else number)
    if isinstance(analysis, Eigs) and analysis.eigenvalues:
        pair = analysis.eigenvalues[0]
        return step, pair.value, pair.value - pair.error_bound, pair.value + pair.error_bound
    if isinstance(analysis, Trace):
        low, high = analysis.ci95 or (analysis.value, analysis.value)
        return step, analysis.value, low, high
    return None


def table(rows: Sequence[TrackRow]) -> tuple[list[str], list[list[Any]]]:
    """Header and rows, a row a checkpoint, at full precision."""
    kinds = [_name(each) for each in rows[0].analyses] if rows else []
    header = ["run", "checkpoint", "step", "loss", "grad_norm"]
    header += [name for kind in kinds for name in (kind, f"{kind}_low", f"{kind}_high")] + ["products", "start"]
    found = []
    for number_, row in enumerate(rows):
        points = [_point(number_, row, place) for place in range(len(kinds))]
        values = [v for point in points for v in (point[1:] if point is not None else ("", "", ""))]
        facts = [row.run, PurePath(row.checkpoint).name, row.step, row.problem.loss_value, row.problem.grad_norm]
        found.append([*facts, *values, _products(row), row.start])
    return header, found


def to_csv(rows: Sequence[TrackRow]) -> str:
    """A row a checkpoint."""
    return csv_text(*table(rows))


def to_markdown(rows: Sequence[TrackRow]) -> str:
    """Likewise."""
    header, found = table(rows)
    return "\n".join(markdown_table(header, found)) + "\n"


def to_json_lines(rows: Sequence[TrackRow]) -> str:
    """As they stand in the file."""
    return "".join(json.dumps(row.model_dump(mode="json"), allow_nan=False) + "\n" for row in rows)
