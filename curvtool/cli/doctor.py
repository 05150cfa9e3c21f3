"""`curvtool doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def doctor(
    ops: Annotated[
        bool, typer.Option("--ops", help="Check every differentiable operation of torch's (about half a minute).")
    ] = False,
    json: Annotated[str | None, typer.Option("--json", metavar="PATH|-", help="Write it as JSON; - is stdout.")] = None,
    all_operations: Annotated[bool, typer.Option("--all", help="List the operations that are right too.")] = False,
) -> None:
    """This installation: versions, devices, attention backends, a Hessian product with a known answer.

    With --ops, which of torch's operations have a right second derivative in the installed version.
    """
    import sys

    from curvtool.cli.console import plain_console
    from curvtool.render.doctor import print_doctor
    from curvtool.report.write import check_writable, write_atomic
    from curvtool.setup.doctor import examine

    if json not in (None, "-"):
        check_writable(Path(str(json)))
    shown = sys.stderr.isatty()

    def observe(name: str, number: int, total: int) -> None:
        if shown:
            sys.stderr.write(f"\r{number + 1}/{total} {name[:50]:50}")
            sys.stderr.flush()

    found = examine(ops, observe)
    if shown and ops:
        sys.stderr.write("\r" + " " * 70 + "\r")
    text = found.model_dump_json(indent=2) + "\n"
    if json == "-":
        sys.stdout.write(text)
        return
    if json is not None:
        write_atomic(Path(json), text.encode())
    print_doctor(found, plain_console(), all_operations=all_operations)
