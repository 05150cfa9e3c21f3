"""`curvtool render`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from curvtool.cli.options import Color, Format


def render(
    report: Annotated[Path, typer.Argument(metavar="REPORT", help="A report (.json), or rows of track (.jsonl).")],
    output: Annotated[
        list[Path] | None,
        typer.Option(
            "--output", "-o", metavar="PATH",
            help="Write it as .html, .png, .svg, .pdf, .csv, .md or .json, may be repeated; without it it is printed.",
        ),
    ] = None,
    format: Format = "table",
    color: Color = "auto",
) -> None:  # fmt: skip
    """A report as a page, a picture or a table: nothing is computed again."""
    import sys

    from curvtool.cli.console import make_console, say
    from curvtool.cli.options import Output
    from curvtool.render.formats import content, format_of
    from curvtool.render.terminal import print_report
    from curvtool.render.track import print_rows
    from curvtool.report.model import Report
    from curvtool.report.read import read_any, read_from
    from curvtool.report.write import check_writable, write_atomic

    targets = {path: format_of(path) for path in output or []}
    for path in targets:
        check_writable(path)
    found = read_any(report)
    with read_from(report):
        written = {path: content(found, target) for path, target in targets.items()}
    for path, whole in written.items():
        write_atomic(path, whole)
        say(f"{path}: written")
    if targets:
        return
    console = make_console(Output(color=color))
    with read_from(report):
        if format != "table":
            sys.stdout.write(content(found, format).decode())
        elif isinstance(found, Report):
            for warning in found.warnings:
                say(f"warning {warning.code}: {warning.message}")
            print_report(found, console)
        else:
            print_rows(found, console)
