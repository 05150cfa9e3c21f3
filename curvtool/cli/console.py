"""Where the words of the program go, and how wide they are."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from curvtool.cli.options import Output
from curvtool.config.resolve import settings_table
from curvtool.config.schema import RunConfig
from curvtool.words import printable

_PIPED_WIDTH = 120


class SafeConsole(Console):
    """A console that prints no control characters of others: names come from files."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The pieces of what is printed, each without them; the console's own codes stay."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


def plain_console(**options: Any) -> Console:
    """Of the terminal's own width and colours."""
    return SafeConsole(**options)


def say(text: str) -> None:
    """A line on stderr."""
    typer.echo(printable(text), err=True)


def make_console(output: Output, *, stderr: bool = False) -> Console:
    """A console of a fixed width when piped; colours as asked for."""
    stream = sys.stderr if stderr else sys.stdout
    piped = not stream.isatty()
    return SafeConsole(
        stderr=stderr,
        width=_PIPED_WIDTH if piped and "COLUMNS" not in os.environ else None,
        force_terminal=True if output.color == "always" else None,
        no_color=True if output.color == "never" else None,
        soft_wrap=stderr and piped,
        highlight=False,
    )


def show_settings(configs: Sequence[RunConfig], console: Console) -> None:
    """The settings that were given, each with where it comes from."""
    for name, value, source in settings_table(configs):
        console.print(f"{name} = {value}  ({source})", style="dim", markup=False, highlight=False)
