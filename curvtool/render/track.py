"""The rows of `track` for a reader."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

from rich.console import Console

from curvtool.render.numbers import number, with_error
from curvtool.render.tables import new_table
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
