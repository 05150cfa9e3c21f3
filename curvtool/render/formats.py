"""A report in every format that a file's name may ask for."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from curvtool.errors import UsageError
from curvtool.render.chart_types import Chart, Gallery
from curvtool.report.comparison import Comparison
from curvtool.report.model import Report, TrackRow

Rows = Sequence[TrackRow]
PICTURES = ("png", "svg", "pdf")
FORMATS = ("json", "csv", "md", "html", *PICTURES)
_EXTRAS = {"html": ("uplot", "jinja2"), **dict.fromkeys(PICTURES, ("matplotlib",))}


def format_of(path: Path) -> str:
    """By the suffix; also whether what it needs is installed.

    Raises:
        UsageError: CT005, a suffix without a format, or an extra that is missing.
    """
    name = path.suffix.lower().removeprefix(".")
    if name not in FORMATS and (path.is_relative_to("/dev") or path.is_char_device() or path.is_fifo()):
        raise UsageError(
            "CT005",
            f"-o tells the format by the name, and {path} has none",
            expected="a file",
            received=str(path),
            remedy="--format md (or json, csv) for the standard output; --json PATH for JSON to a pipe",
        )
    if name not in FORMATS:
        raise UsageError(
            "CT005",
            f"no format for {path.name or path}",
            expected="a name that ends in " + ", ".join(f".{each}" for each in FORMATS),
            received=path.suffix or "no suffix",
            remedy=f"-o {path.stem.strip('.') or 'report'}.json",
        )
    missing = [package for package in _EXTRAS.get(name, ()) if find_spec(package) is None]
    if missing:
        raise UsageError(
            "CT005",
            f"{path.name} needs the extra `plot`",
            expected=", ".join(_EXTRAS[name]),
            received=f"{', '.join(missing)} not installed",
            remedy="pip install 'curvtool[plot]'",
        )
    return name


def content(found: Report | Rows | Comparison, format: str) -> bytes:
    """What the file holds.

    Args:
        found: a report, the rows of `track`, or a comparison.
        format: one of `FORMATS`.

    Raises:
        UsageError: CT005, the extra `plot` is not installed; CT009, there is nothing to draw.
    """
    if format in PICTURES:
        return _picture(found, format)
    texts: dict[str, Callable[[], str]]
    if isinstance(found, Report):
        from curvtool.render.html.page import page_of_report
        from curvtool.render.text import to_csv, to_markdown

        texts = {
            "json": lambda: json.dumps(found.model_dump(mode="json"), indent=2, allow_nan=False) + "\n",
            "csv": lambda: to_csv(found),
            "md": lambda: to_markdown(found),
            "html": lambda: page_of_report(found),
        }
    elif isinstance(found, Comparison):
        from curvtool.render import comparison
        from curvtool.render.html.page import page_of_comparison
        from curvtool.render.table_parts import csv_text

        texts = {
            "json": lambda: json.dumps(found.model_dump(mode="json"), indent=2, allow_nan=False) + "\n",
            "csv": lambda: csv_text(*comparison.csv(found)),
            "md": lambda: "\n".join(comparison.markdown(found)) + "\n",
            "html": lambda: page_of_comparison(found),
        }
    else:
        from curvtool.render.html.page import page_of_rows
        from curvtool.render.track import to_csv as rows_to_csv
        from curvtool.render.track import to_json_lines
        from curvtool.render.track import to_markdown as rows_to_markdown

        texts = {
            "json": lambda: to_json_lines(found),
            "csv": lambda: rows_to_csv(found),
            "md": lambda: rows_to_markdown(found),
            "html": lambda: page_of_rows(found),
        }
    return texts[format]().encode()


def charts_of(found: Report | Rows | Comparison) -> list[Chart | Gallery]:
    """All that can be drawn of it."""
    from curvtool.render import comparison
    from curvtool.render.analyses import charts_of_analysis, galleries_of
    from curvtool.render.track import charts as charts_of_rows

    if isinstance(found, Report):
        drawn: list[Chart | Gallery] = []
        for each in found.analyses:
            drawn += [*charts_of_analysis(each), *galleries_of(each)]
        return drawn
    if isinstance(found, Comparison):
        return list(comparison.charts(found))
    return list(charts_of_rows(found))


def _picture(found: Report | Rows | Comparison, format: str) -> bytes:
    from curvtool.render.pictures import draw

    charts = charts_of(found)
    if not charts:
        raise UsageError(
            "CT009",
            "there is nothing to draw",
            expected="eigenvalues, a density, norms, or numbers by layer",
            received=", ".join(each.kind for each in found.analyses) if isinstance(found, Report) else "rows of others",
            remedy="-o report.html, which holds tables too",
        )
    return draw(charts, format)
