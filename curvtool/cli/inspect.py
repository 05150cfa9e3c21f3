"""`curvtool inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def inspect(
    file: Annotated[Path, typer.Argument(help="A checkpoint or a data file.", show_default=False)],
    json: Annotated[str | None, typer.Option("--json", metavar="PATH|-", help="Write it as JSON; - is stdout.")] = None,
    all_tensors: Annotated[bool, typer.Option("--all", help="List every tensor.")] = False,
) -> None:
    """What a checkpoint or data file is and holds, without executing it.

    Says its format, its tensors, what loading it would import, and what to type next.
    """
    import sys

    from curvtool.cli.console import plain_console
    from curvtool.render.inspection import print_inspection
    from curvtool.report.write import check_writable, write_atomic
    from curvtool.setup.inspection import inspect_file

    if json not in (None, "-"):
        check_writable(Path(str(json)))
    found = inspect_file(file)
    text = found.model_dump_json(indent=2) + "\n"
    if json == "-":
        sys.stdout.write(text)
        return
    if json is not None:
        write_atomic(Path(json), text.encode())
    print_inspection(found, plain_console(), all_tensors=all_tensors)
