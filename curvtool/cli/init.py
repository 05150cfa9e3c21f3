"""`curvtool init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def init(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Where to look, and to write (default: here).")
    ] = Path(),
    force: Annotated[bool, typer.Option("--force", help="Write over a project file that is there.")] = False,
) -> None:  # fmt: skip
    """Write a commented curvtool.toml from the checkpoints, data and models that are found; nothing is executed."""
    from curvtool.cli.console import say
    from curvtool.config.resolve import PROJECT_FILE
    from curvtool.errors import UsageError
    from curvtool.report.write import check_writable, write_atomic
    from curvtool.setup.starter import look, project_file

    target = folder / PROJECT_FILE
    check_writable(target)
    if target.exists() and not force:
        raise UsageError(
            "CT007",
            f"{target} is there already",
            expected="a folder without one",
            received="a project file",
            remedy="curvtool init --force writes over it",
        )
    found = look(folder)
    write_atomic(target, project_file(found, folder).encode())
    for what, names in (
        ("checkpoints", [str(path) for path in found.checkpoints]),
        ("data", [*found.sources, *(str(path) for path in found.data)]),
        ("models", list(found.factories)),
    ):
        shown = ", ".join(names[:5]) + (f", … ({len(names)} in all)" if len(names) > 5 else "")
        say(f"{what}: {shown or 'none found'}")
    complete = found.checkpoints and (found.data or found.sources)
    following = "curvtool run" if complete else "fill in what is missing, then curvtool run"
    say(f"{target}: written. Look at it; next: {following}")
