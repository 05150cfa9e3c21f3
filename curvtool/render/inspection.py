"""An inspection as text for a terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from curvtool.render.numbers import bytes_text
from curvtool.report.model import Inspection
from curvtool.words import counted

_SHOWN = 12


def print_inspection(found: Inspection, console: Console, *, all_tensors: bool = False) -> None:
    """Format first, then the tensors, then what to type."""
    console.print(
        f"[bold]{escape(found.path)}[/]: {escape(found.description)}, {bytes_text(found.size_bytes)}",
        highlight=False,
    )
    if found.weights_under:
        others = f"; beside them: {', '.join(found.other_keys)}" if found.other_keys else ""
        console.print(f"weights under {found.weights_under!r}{others}", markup=False, highlight=False)
    if found.num_params is not None:
        console.print(
            f"{counted(len(found.tensors), 'tensor')}, {counted(found.num_params, 'number')} (parameters and buffers)"
        )
    for note in found.notes:
        console.print(note, markup=False, highlight=False)
    if found.would_import:
        console.print(
            "loading it without protection would import: " + ", ".join(found.would_import),
            style="yellow",
            markup=False,
        )
    if found.tensors:
        table = Table(box=box.SIMPLE_HEAD)
        table.add_column("tensor", overflow="fold")
        table.add_column("shape", justify="right")
        table.add_column("dtype")
        shown = found.tensors if all_tensors else found.tensors[:_SHOWN]
        for entry in shown:
            table.add_row(escape(entry.name), " x ".join(map(str, entry.shape)) or "scalar", entry.dtype)
        console.print(table)
        if len(shown) < len(found.tensors):
            console.print(f"and {len(found.tensors) - len(shown)} more (--all)", style="dim")
    console.print(f"next: {found.next_command}", markup=False, highlight=False)
