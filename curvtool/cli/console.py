"""Where the words of the program go, and how wide they are."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from rich.console import Console

from curvtool.cli.options import Output
from curvtool.config.resolve import settings_table
from curvtool.config.schema import RunConfig

_PIPED_WIDTH = 120


def make_console(output: Output, *, stderr: bool = False) -> Console:
    """A console of a fixed width when piped; colours as asked for."""
    stream = sys.stderr if stderr else sys.stdout
    piped = not stream.isatty()
    return Console(
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
