"""What the tables of all analyses share."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

MATRICES = {
    "hessian": "Hessian",
    "ggn": "Gauss-Newton matrix",
    "fisher": "Fisher information",
    "empirical-fisher": "empirical Fisher",
}


def new_table(title: str, console: Console) -> Table:
    """An empty table for a terminal; in ASCII where it cannot show more."""
    ascii_only = not console.encoding.lower().startswith("utf")
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.ASCII if ascii_only else box.SIMPLE_HEAD,
    )


def csv_text(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """As CSV, at full precision."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return buffer.getvalue()


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """The lines of a table in Markdown, columns to the right."""
    ruled = ["---:"] * len(header)
    return ["| " + " | ".join(str(cell) for cell in row) + " |" for row in [header, ruled, *rows]]
