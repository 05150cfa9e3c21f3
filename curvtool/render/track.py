"""The rows of `track` for a reader."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from rich.console import Console

from curvtool.render.charts import Chart, Series, spans_decades
from curvtool.render.numbers import number, with_error
from curvtool.render.tables import MATRICES, csv_text, filled_table, markdown_table, print_tables, width_of
from curvtool.report.model import Analysis, Density, Diag, Eigs, JacNorm, Trace, TrackRow
from curvtool.report.numbers import half_width_of
from curvtool.words import counted

_SHOWN = 1e-5  # relative; more digits are in the file


def row_line(row: TrackRow) -> str:
    """A line."""
    told = []
    for place, analysis in enumerate(row.analyses):
        point = _point(0, row, place)
        if point is not None:
            told.append(f"{_name(analysis)} {_value(point)} +- {number(_error(point), 2)}")
        if isinstance(analysis, Eigs) and analysis.stability is not None:
            told.append(f"x lr {_times_lr(analysis)}")
    path = PurePath(row.checkpoint)
    where = PurePath(path.parent.name) / path.name
    return f"{where}: {'; '.join(told)} ({counted(_products(row), 'product', 'g')}, {row.start} start)"


def verdict(rows: Sequence[TrackRow]) -> list[str]:
    """How far the first number went in every run, and how often it was above 2 / learning rate."""
    told = []
    several = len({row.run for row in rows}) > 1
    for run in dict.fromkeys(row.run for row in rows):
        own = [row for row in rows if row.run == run and row.analyses]
        points = [point for number_, row in enumerate(own) if (point := _point(number_, row, 0)) is not None]
        if not points:
            continue
        ends = [min(points, key=lambda point: point[1]), max(points, key=lambda point: point[1])]
        reached = " and ".join(dict.fromkeys(f"{_value(end)} (step {end[0]:g})" for end in ends))
        between = "between " if " and " in reached else ""
        text = (f"{PurePath(run).name}: " if several else "") + f"{_what(own[0].analyses[0])} {between}{reached}"
        known = [e.stability for row in own if isinstance(e := row.analyses[0], Eigs) and e.stability is not None]
        if known:
            above = sum(each.sharpness_times_lr - each.error > each.threshold for each in known)
            text += f"; above 2 / learning rate at {above} of {counted(len(known), 'checkpoint')}"
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
        columns = _columns(own)
        left_out = []
        for name in ("start", "products", "grad norm", "loss"):
            if width_of(filled_table("", columns, console)) > console.width:
                left_out.append(name)
                del columns[name]
        words = "step" if any(row.step is None for row in own) else None
        print_tables([filled_table(title, columns, console, text=words)], console)
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
        name = _name(first)
        name = name if name not in columns else f"{name} ({place + 1})"
        points = [_point(0, row, place) for row in rows]
        columns[name] = ["-" if point is None else _value(point) for point in points]
        columns["+-" + " " * place] = ["-" if point is None else number(_error(point), 2) for point in points]
        analyses = [row.analyses[place] if place < len(row.analyses) else None for row in rows]
        known = [each if isinstance(each, Eigs) and each.stability is not None else None for each in analyses]
        if any(known):
            columns["x lr"] = ["-" if each is None else _times_lr(each) for each in known]
    columns["products"] = [f"{_products(row):g}" for row in rows]
    columns["start"] = [row.start for row in rows]
    return columns


def _name(analysis: Analysis) -> str:
    if isinstance(analysis, Eigs):
        return {"sa": "lambda_min", "lm": "lambda_abs_max"}.get(analysis.which, "lambda_max")
    return {"trace": "trace", "density": "share < 0", "diag": "sum", "jacnorm": "norm"}.get(
        analysis.kind, analysis.kind
    )


def _value(point: tuple[float, float, float, float]) -> str:
    return with_error(point[1], max(_error(point), _SHOWN * abs(point[1])))


def _error(point: tuple[float, float, float, float]) -> float:
    """The longer side of the error bar."""
    _, value, low, high = point
    return max(high - value, value - low)


def _times_lr(eigs: Eigs) -> str:
    assert eigs.stability is not None
    return number(eigs.stability.sharpness_times_lr, 4)


def _products(row: TrackRow) -> float:
    made = round(sum(each.cost.num_hvps for each in row.analyses), 1)
    return int(made) if made == int(made) else made


def charts(rows: Sequence[TrackRow]) -> list[Chart]:
    """The first number of every analysis over the steps, a line a run; the largest eigenvalue against 2 / lr."""
    found = []
    for place, first in enumerate(rows[0].analyses if rows else []):
        runs = {run: [r for r in rows if r.run == run] for run in dict.fromkeys(row.run for row in rows)}
        series = []
        for run, own in runs.items():
            told = [point for number, row in enumerate(own) if (point := _point(number, row, place)) is not None]
            x, y, low, high = ([point[i] for point in told] for i in range(4))
            series.append(Series(PurePath(run).name or "run", "line", x, y, low, high))
        if not any(each.x for each in series):
            continue
        what, caption = _what(first), _BANDS[first.kind]
        matrix = MATRICES.get(getattr(first, "operator", ""))
        title = what if matrix is None else f"{what} of the {matrix}"
        values = [y for each in series for y in each.y if y is not None]
        series += _edges(runs, place)
        found.append(Chart(f"{title} over training", "step", what.lower(), tuple(series), caption,
                           log_y=spans_decades(values)))  # fmt: skip
    return found


_BANDS = {
    "eigs": "Bands: the estimated error.",
    "trace": "Bands: the 95 % interval.",
    "density": "Bands: the 95 % interval.",
    "diag": "Bands: 95 % over the probes.",
    "jacnorm": "Bands: the estimated error.",
}


def _what(analysis: Analysis) -> str:
    """Its first number, in words."""
    if isinstance(analysis, Eigs):
        named = {"sa": "Smallest eigenvalue", "lm": "Eigenvalue largest in magnitude"}
        return named.get(analysis.which, "Largest eigenvalue")
    words = {
        "trace": "Trace",
        "density": "Share of eigenvalues below zero by more than rounding",
        "diag": "Sum of the diagonal",
        "jacnorm": "Largest norm of an input-output Jacobian",
    }
    return words.get(analysis.kind, analysis.kind)


def _edges(runs: Mapping[str, Sequence[TrackRow]], place: int) -> list[Series]:
    """2 / lr of the rows that know a learning rate: one line where all have the same, else a line a run."""
    found: dict[str, list[tuple[float, float]]] = {}
    for run, rows in runs.items():
        for number_, row in enumerate(rows):
            analysis = row.analyses[place] if place < len(row.analyses) else None
            if isinstance(analysis, Eigs) and analysis.stability is not None:
                found.setdefault(run, []).append((_step(number_, row), 2 / analysis.stability.lr))
    heights = {height for edges in found.values() for _, height in edges}
    if len(heights) == 1:
        steps = [step for edges in found.values() for step, _ in edges]
        height = heights.pop()
        return [Series(f"2 / learning rate = {height:.3g}", "line", [min(steps), max(steps)], [height, height])]
    lines = []
    for run, edges in found.items():
        name = "2 / learning rate" + (f" ({PurePath(run).name})" if len(runs) > 1 else "")
        lines.append(Series(name, "line", [step for step, _ in edges], [height for _, height in edges]))
    return lines


def _step(number: int, row: TrackRow) -> float:
    return float(row.step if row.step is not None else number)


def _point(number: int, row: TrackRow, place: int) -> tuple[float, float, float, float] | None:
    """Step, value, and the ends of its error bar."""
    analysis = row.analyses[place] if place < len(row.analyses) else None
    step = _step(number, row)
    match analysis:
        case Eigs() if analysis.eigenvalues:
            pair = analysis.eigenvalues[0]
            return step, pair.value, pair.value - pair.error_bound, pair.value + pair.error_bound
        case Trace():
            low, high = analysis.ci95 or (analysis.value, analysis.value)
            return step, analysis.value, low, high
        case Density():
            share = analysis.below_zero
            value = share.value if share.is_known else (share.low + share.high) / 2  # the interval alone is to be shown
            return step, value, share.low, share.high
        case Diag():
            reach = half_width_of(analysis, analysis.num_passes)
            return step, analysis.sum, analysis.sum - reach, analysis.sum + reach
        case JacNorm():
            summary = analysis.spectral or analysis.frobenius
            error = analysis.spectral_max_error if analysis.spectral else analysis.frobenius_max_stderr
            if summary is not None and summary.bounds is not None:
                return step, summary.max, *summary.bounds["max"]
            if summary is not None:
                return step, summary.max, summary.max - (error or 0.0), summary.max + (error or 0.0)
    return None


def table(rows: Sequence[TrackRow]) -> tuple[list[str], list[list[Any]]]:
    """Header and rows, a row a checkpoint, at full precision."""
    kinds = [_name(each) for each in rows[0].analyses] if rows else []
    header = ["run", "checkpoint", "step", "loss", "grad_norm"]
    header += [name for kind in kinds for name in (kind, f"{kind}_low", f"{kind}_high")]
    header += ["learning_rate", "products", "start"]
    found = []
    for number_, row in enumerate(rows):
        points = [_point(number_, row, place) for place in range(len(kinds))]
        values = [v for point in points for v in (point[1:] if point is not None else ("", "", ""))]
        facts = [row.run, PurePath(row.checkpoint).name, row.step, row.problem.loss_value, row.problem.grad_norm]
        stabilities = [each.stability for each in row.analyses if isinstance(each, Eigs) and each.stability is not None]
        lr = stabilities[0].lr if stabilities else ""
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
