"""`curvtool render`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from curvtool.cli.options import Color, Format


def render(
    report: Annotated[Path, typer.Argument(metavar="REPORT", help="A report (.json), or rows of track (.jsonl).")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="PATH",
            help="Write it as .html, .png, .svg, .pdf, .csv, .md or .json; without this it is printed.",
        ),
    ] = None,
    format: Format = "table",
    color: Color = "auto",
) -> None:  # fmt: skip
    """A report as a page, a picture or a table: nothing is computed again."""
    import sys

    from curvtool.cli.console import make_console
    from curvtool.cli.options import Output
    from curvtool.render.formats import content, format_of
    from curvtool.render.table import print_report
    from curvtool.render.track import print_rows
    from curvtool.report.model import Report
    from curvtool.report.read import read_any
    from curvtool.report.write import check_writable, write_atomic

    target = None if output is None else format_of(output)
    if output is not None:
        check_writable(output)
    found = read_any(report)
    if output is not None and target is not None:
        write_atomic(output, content(found, target))
        typer.echo(f"{output}: written", err=True)
        return
    console = make_console(Output(color=color))
    if format != "table":
        sys.stdout.write(content(found, format).decode())
    elif isinstance(found, Report):
        for warning in found.warnings:
            typer.echo(f"warning {warning.code}: {warning.message}", err=True)
        print_report(found, console)
    else:
        print_rows(found, console)
