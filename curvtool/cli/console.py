"""Where the words of the program go, and how wide they are."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from rich.console import Console

from curvtool.cli.options import Output
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
        soft_wrap=stderr,
    )


def show_settings(configs: Sequence[RunConfig], console: Console) -> None:
    """The settings that were given, each with where it comes from; those that several analyses share once."""
    shown: set[str] = set()
    for number, config in enumerate(configs, 1):
        for name, source in config.sources.items():
            section, _, key = name.partition(".")
            part = getattr(config, section, config.analysis)
            label = f"{name} (analysis {number})" if part is config.analysis and len(configs) > 1 else name
            if source != "default" and label not in shown:
                shown.add(label)
                console.print(
                    f"{label} = {getattr(part, key)!r}  ({source})", style="dim", markup=False, highlight=False
                )
