"""`curvtool compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from curvtool.cli.options import Color, Format


def compare(
    reports: Annotated[list[Path], typer.Argument(metavar="REPORT REPORT …", help="Two or more reports (.json).")],
    output: Annotated[
        list[Path] | None,
        typer.Option(
            "--output", "-o", metavar="PATH",
            help="Write it: .html, .png, .svg, .pdf, .csv, .md or .json; may be repeated.",
        ),
    ] = None,
    format: Format = "table",
    color: Color = "auto",
) -> None:  # fmt: skip
    """Reports side by side: which settings and numbers differ, and whether by more than the errors.

    The others are compared with the first one. Reports of another loss, matrix or choice of parameters are refused.
    """
    import sys

    from curvtool.cli.console import make_console, say
    from curvtool.cli.options import Output
    from curvtool.render.comparison import show
    from curvtool.render.formats import content, format_of
    from curvtool.report.comparison import compare as compared
    from curvtool.report.read import read_from, read_report, short_names
    from curvtool.report.write import check_writable, write_atomic

    targets = {path: format_of(path) for path in output or []}
    for path in targets:
        check_writable(path)
    read = [read_report(path) for path in reports]
    with read_from(*reports):
        found = compared(read, short_names(reports))
        written = {path: content(found, target) for path, target in targets.items()}
    for path, whole in written.items():
        write_atomic(path, whole)
        say(f"{path}: written")
    if targets:
        return
    with read_from(*reports):
        if format != "table":
            sys.stdout.write(content(found, format).decode())
        else:
            show(found, make_console(Output(color=color)))
