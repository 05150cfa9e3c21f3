"""`curvtool track`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from curvtool.cli.options import Output, with_options

_HELP = "Checkpoints of a training run, as 'runs/*/step_*.pt' in quotes; in the order of their last number."
_OWN = {
    "shard": Annotated[
        str | None,
        typer.Option(
            "--shard", metavar="I/N", help="The I-th of N parts of the checkpoints, I from 0.", show_default=False
        ),
    ],
    "start": Annotated[
        str,
        typer.Option(
            "--start",
            metavar="WORD",
            help="auto, cold or warm: auto measures what pays (default auto).",
            show_default=False,
        ),
    ],
}


@with_options(None, argument="PATTERN", help=_HELP, own=_OWN)
def track(flags: dict[str, Any], output: Output) -> None:
    """The same analyses over the checkpoints of a training run, a row each in a file of JSON lines (-o rows.jsonl).

    Each search for eigenpairs may start from the vectors of the checkpoint before. Started again, it goes on after the
    last row. The analyses are those of the project file; without one the five largest eigenvalues.
    """
    from curvtool.cli.execute import execute_track

    pattern, shard, start = flags.pop("checkpoint"), flags.pop("shard"), flags.pop("start")
    execute_track(pattern, flags, output, shard, start or "auto")
