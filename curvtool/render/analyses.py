"""How each kind of analysis is shown, from its own module `show`."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from curvtool import registry
from curvtool.render.chart_types import Chart, Gallery
from curvtool.render.table_parts import Listing
from curvtool.report.record import AnalysisRecord


def title_of(kind: str) -> str:
    """A kind in words."""
    return str(registry.part(kind, "show").TITLE)


def shows_preflight(analysis: AnalysisRecord) -> bool:
    """Whether the preflight's numbers are part of what is shown."""
    return bool(getattr(_show(analysis), "SHOWS_PREFLIGHT", False))


def verdict_of(analysis: AnalysisRecord) -> list[str]:
    """What its numbers say, in sentences."""
    return list(_show(analysis).verdict(analysis))


def print_tables_of(analysis: AnalysisRecord, console: Console) -> None:
    """Its tables and notes on a terminal."""
    _show(analysis).show(analysis, console)


def csv_of(analysis: AnalysisRecord) -> tuple[list[str], list[list[Any]]]:
    """Header and rows, at full precision."""
    header, rows = _show(analysis).csv(analysis)
    return header, rows


def markdown_of(analysis: AnalysisRecord) -> list[str]:
    """Lines of Markdown."""
    return list(_show(analysis).markdown(analysis))


def charts_of_analysis(analysis: AnalysisRecord) -> list[Chart]:
    """Its pictures."""
    return list(_show(analysis).charts(analysis))


def galleries_of(analysis: AnalysisRecord) -> list[Gallery]:
    """Its images, where it has any."""
    galleries = getattr(_show(analysis), "galleries", None)
    return [] if galleries is None else list(galleries(analysis))


def notes_of(analysis: AnalysisRecord) -> list[str]:
    """What stands below its tables."""
    notes = getattr(_show(analysis), "notes", None)
    return [] if notes is None else list(notes(analysis))


def tables_of(analysis: AnalysisRecord) -> list[Listing]:
    """Its tables, each with a caption; that of its CSV where it has no others."""
    tables = getattr(_show(analysis), "tables", None)
    return [("Numbers", *csv_of(analysis))] if tables is None else list(tables(analysis))


def _show(analysis: AnalysisRecord) -> Any:
    return registry.part(analysis.kind, "show")
