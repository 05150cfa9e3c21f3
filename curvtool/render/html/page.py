"""The page: its words and tables from the report, its charts drawn by uPlot, which is inlined from its package."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from curvtool.errors import UsageError
from curvtool.render import comparison as comparing
from curvtool.render.analyses import charts_of_analysis, galleries_of, notes_of, tables_of, title_of, verdict_of
from curvtool.render.chart_types import Chart
from curvtool.render.numbers import bytes_text, count, number, seconds_text
from curvtool.render.table_parts import Listing
from curvtool.render.track import charts as charts_of_rows
from curvtool.render.track import table as table_of_rows
from curvtool.render.track import verdict as verdict_of_rows
from curvtool.report.comparison import Comparison
from curvtool.report.model import AnalysisRecord, ProblemSummary, Provenance, Report, TrackRow
from curvtool.words import counted

_HERE = Path(__file__).parent
_LIBRARY = ("uplot/static/uPlot.iife.js", "uplot/static/uPlot.min.css")
_HEADERS = {
    "error_bound": "est. error", "bound_kind": "error by", "residual_norm": "residual", "data_stderr": "s.e. over data",
    "population_low": "95 % from", "population_high": "to",
    "stderr": "standard error", "degrees_of_freedom": "degrees of freedom", "ci95_low": "95 % from",
    "ci95_high": "to", "num_passes": "passes", "num": "entries",
    "p95": "95 % below", "negative": "share below 0", "grad_norm": "gradient norm",
}  # fmt: skip
_STATUS = {
    "complete": "complete",
    "partial": "partial: stopped early",
    "not_converged": "not converged: some errors are larger than asked for",
}


def page_of_report(report: Report) -> str:
    """The page of a run.

    Raises:
        UsageError: CT005, the extra `plot` is not installed.
    """
    problem, prov, batch = report.problem, report.provenance, report.problem.statistics_batch
    facts = [
        ("model", problem.model),
        ("parameters", f"{count(problem.num_trainable)} of {count(problem.num_params)}"),
        ("data", counted(problem.num_samples, "sample")),
        *([("BatchNorm", f"in batches of {batch}" if batch else "in evaluation mode")] if problem.batch_norm else []),
        ("loss", f"{problem.loss} ({problem.reduction}) {number(problem.loss_value, 5)}" if problem.loss else "none"),
        ("gradient norm", number(problem.grad_norm, 3)),
        ("precision", f"{prov.dtype} on {prov.device_name}"),
        ("status", _STATUS[report.status]),
    ]
    return _page(
        f"Curvature of {problem.model}",
        facts,
        [_section(analysis) for analysis in report.analyses],
        [(warning.code, warning.message) for warning in report.warnings],
        _provenance(prov, problem),
        report.model_dump(mode="json"),
    )


def page_of_rows(rows: Sequence[TrackRow]) -> str:
    """The page of a training run's checkpoints; likewise."""
    header, cells = table_of_rows(rows)
    section = {
        "title": "Over training",
        "verdict": verdict_of_rows(rows),
        "charts": charts_of_rows(rows),
        "tables": _tables([("Checkpoints", header, cells)]),
        "notes": [],
        "cost": "",
    }
    problem, last = rows[-1].problem, rows[-1].provenance
    facts = [
        ("checkpoints", str(len(rows))),
        ("runs", str(len({row.run for row in rows}))),
        ("parameters", f"{count(problem.num_trainable)} of {count(problem.num_params)}"),
        ("data", counted(problem.num_samples, "sample")),
        ("loss", f"{problem.loss} ({problem.reduction})" if problem.loss else "none"),
        *([("precision", f"{last.dtype} on {last.device_name}")] if last is not None else []),
    ]
    told = [(f"{row.checkpoint}: {each.code}", each.message) for row in rows for each in row.warnings]
    known = [] if last is None else _provenance(last, problem)
    return _page(
        "Curvature over training", facts, [section], told, known, [row.model_dump(mode="json") for row in rows]
    )


def page_of_comparison(comparison: Comparison) -> str:
    """The page of several reports side by side; likewise."""
    header, rows = comparing.csv(comparison)
    section = {
        "title": "The numbers side by side",
        "verdict": comparing.verdict(comparison),
        "charts": comparing.charts(comparison),
        "tables": _tables([("Numbers", header, rows)]),
        "notes": [],
        "cost": comparing.note(comparison),
    }
    settings = [(name, " | ".join(values)) for name, values in comparison.settings.items()]
    told = [("not compared", text) for text in comparison.not_compared]
    facts = [("reports", ", ".join(comparison.names))]
    title = f"{' and '.join(comparison.names)} compared"
    return _page(title, facts, [section], told, settings, comparison.model_dump(mode="json"))


def _page(
    title: str,
    facts: list[tuple[str, str]],
    sections: list[dict[str, Any]],
    warnings: list[tuple[str, str]],
    provenance: list[tuple[str, str]],
    data: Any,
) -> str:
    try:
        from jinja2 import Environment, FileSystemLoader

        place = distribution("uplot-python")
    except (ImportError, PackageNotFoundError) as error:
        raise UsageError(
            "CT005",
            "a page needs uPlot",
            expected="the extra `plot`",
            received=f"not installed: {error}",
            remedy="pip install 'curvtool[plot]'",
        ) from error
    library, style = (Path(str(place.locate_file(name))).read_text(encoding="utf-8") for name in _LIBRARY)
    environment = Environment(loader=FileSystemLoader(_HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    charts: list[Chart] = [chart for section in sections for chart in section["charts"]]
    return environment.get_template("page.html.jinja").render(
        title=title,
        facts=facts,
        sections=sections,
        warnings=warnings,
        provenance=provenance,
        style=style + (_HERE / "page.css").read_text(encoding="utf-8"),
        script=library + (_HERE / "page.js").read_text(encoding="utf-8"),
        charts=_as_script([dataclasses.asdict(chart) for chart in charts]),
        data=_as_script(data),
    )


def _as_script(data: Any) -> str:
    """JSON that no text within can end the script element of."""
    return json.dumps(data, allow_nan=False).replace("<", "\\u003c")


def _section(analysis: AnalysisRecord) -> dict[str, Any]:
    cost = analysis.cost
    told = f"{counted(cost.num_hvps, 'product', '.4g')}, " if cost.num_hvps else ""
    return {
        "title": title_of(analysis.kind),
        "verdict": verdict_of(analysis),
        "charts": charts_of_analysis(analysis),
        "galleries": galleries_of(analysis),
        "tables": _tables(tables_of(analysis)),
        "notes": notes_of(analysis),
        "cost": f"{told}{seconds_text(cost.seconds)}, peak {bytes_text(cost.peak_bytes)}",
    }


def _tables(listings: Sequence[Listing]) -> list[dict[str, Any]]:
    return [
        {
            "caption": caption,
            "header": [_HEADERS.get(name, name.replace("_", " ")) for name in header],
            "rows": [[_cell(value) for value in row] for row in rows],
        }
        for caption, header, rows in listings
        if rows
    ]


def _cell(value: Any) -> tuple[str, str]:
    """What is shown, and what is sorted by: numbers to six digits, and in full."""
    if value is None:
        return "", ""
    if isinstance(value, bool):
        return ("yes" if value else "no"), str(int(value))
    return (number(value, 6) if isinstance(value, float) else str(value)), str(value)


def _provenance(provenance: Provenance, problem: ProblemSummary) -> list[tuple[str, str]]:
    """Every fact that is known, in words."""
    told = provenance.model_dump(mode="json")
    told |= {f"preflight: {name}": v for name, v in problem.preflight.model_dump(mode="json").items()}
    kept = {name: value for name, value in told.items() if value not in (None, [], {}) and "unavailable" not in name}
    return [(name.replace("_", " "), _words(value)) for name, value in kept.items()]


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{name}: {_words(each)}" for name, each in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
