"""What the tables of all analyses share."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table

from curvtool.words import printable

Listing = tuple[str, list[str], list[list[Any]]]  # caption, header, rows


def new_table(title: str, console: Console) -> Table:
    """An empty table for a terminal; in ASCII where it cannot show more."""
    ascii_only = not console.encoding.lower().startswith("utf")
    return Table(
        title=escape(title),
        title_justify="left",
        title_style="bold",
        box=box.ASCII if ascii_only else box.SIMPLE_HEAD,
    )


def filled_table(
    title: str, columns: Mapping[str, Iterable[RenderableType]], console: Console, text: str | None = None
) -> Table:
    """A table whose numbers stand with their points below each other.

    Args:
        columns: the cells by header, all columns of one length; what is no text is shown as it is.
        text: the column of words, which may be broken where the terminal is narrow.
    """
    table = new_table(title, console)
    cells: list[Sequence[RenderableType]] = []
    for header, given in columns.items():
        drawn = list(given)
        column = [cell for cell in drawn if isinstance(cell, str)]
        if len(column) < len(drawn):
            table.add_column(escape(header), no_wrap=True)
            cells.append(drawn)
        elif header == text:
            table.add_column(escape(header), overflow="fold", min_width=len(header))
            cells.append([escape(cell) for cell in column])
        elif all(map(_NUMBER.fullmatch, column)):
            header, column = _aligned(header, column)
            table.add_column(escape(header), no_wrap=True)
            cells.append(column)
        else:
            table.add_column(escape(header), justify="right", no_wrap=True)
            cells.append([escape(cell) for cell in column])
    for row in zip(*cells, strict=True):
        table.add_row(*row)
    return table


_NUMBER = re.compile(r"-?[\d,]*(\.\d*)?(e[+-]\d+)?")
_FORMULAS = ("=", "+", "-", "@", "\t", "\r")
_WIDE, _GAP, _ENOUGH, _LEAST_WORDS = 160, 4, 10_000, 8


def _aligned(header: str, cells: Sequence[str]) -> tuple[str, list[str]]:
    """Padded to one width on both sides."""
    tails = [len(cell) - len(re.split(r"[.e]", cell)[0]) for cell in cells]
    padded = [cell + " " * (max(tails, default=0) - tail) for cell, tail in zip(cells, tails, strict=True)]
    width = max(map(len, [header, *padded]))
    return header.rjust(width), [cell.rjust(width) for cell in padded]


def width_of(table: Table) -> int:
    """What it takes if nothing is broken or cut."""
    return Console(width=_ENOUGH).measure(table).maximum


def print_tables(tables: Sequence[Table], console: Console) -> None:
    """Below each other; beside each other where a wide terminal has room, as lists where it has not room for one."""
    needed = sum(map(width_of, tables)) + _GAP * (len(tables) - 1)
    if console.width < _WIDE or needed > console.width or len(tables) < 2:
        for table in tables:
            if least_width(table) <= console.width:
                console.print(table)
            else:
                _print_list(table, console)
        return
    beside = Table.grid(padding=(0, _GAP, 0, 0))
    beside.add_row(*tables)
    console.print(beside)


def least_width(table: Table) -> int:
    """What it takes with its words broken and no number cut."""
    spared = 0
    for column in table.columns:
        if column.overflow == "fold":
            longest = max((len(line) for cell in column.cells for line in str(cell).splitlines()), default=0)
            spared += max(longest - max(column.min_width or 0, _LEAST_WORDS), 0)
    return width_of(table) - spared


def _print_list(table: Table, console: Console) -> None:
    """A paragraph a row: a number that is cut off would be another number."""
    console.print(table.title or "", style="bold")
    headers = [str(column.header).strip() for column in table.columns]
    for row in zip(*(list(column.cells) for column in table.columns), strict=True):
        told = [f"{header} {cell.strip()}" for header, cell in zip(headers, row, strict=True) if isinstance(cell, str)]
        console.print("  " + ", ".join(told))
    console.print()


def csv_text(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """As CSV, at full precision."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_csv_cell(cell) for cell in row] for row in rows)
    return buffer.getvalue()


def _csv_cell(cell: Any) -> Any:
    """Names that a spreadsheet would take for a formula begin with an apostrophe there."""
    if not isinstance(cell, str):
        return cell
    text = printable(cell)
    return f"'{text}" if text[:1] in _FORMULAS else text


def _markdown_cell(cell: Any) -> str:
    """One line, with bars that are no columns."""
    return " ".join(printable(str(cell)).split("\n")).replace("|", "\\|") if isinstance(cell, str) else str(cell)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """The lines of a table in Markdown, columns to the right."""
    ruled = ["---:"] * len(header)
    return ["| " + " | ".join(map(_markdown_cell, row)) + " |" for row in [header, ruled, *rows]]
