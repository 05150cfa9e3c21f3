"""`curvtool track`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from curvtool.cli import completion, interruption
from curvtool.cli.options import Output, with_options
from curvtool.config.section import refuse_unless
from curvtool.errors import EXIT_INTERRUPTED, EXIT_RESUMABLE, UsageError

_HELP = "Checkpoints of a training run, as 'runs/*/step_*.pt' in quotes; in the order of their last number."
_WARM_START = {"auto": "auto", "always": "warm", "never": "cold"}  # and what a row says
_OWN = {
    "shard": Annotated[
        str | None,
        typer.Option(
            "--shard", metavar="I/N", help="The I-th of N parts of the checkpoints, I from 0.", show_default=False
        ),
    ],
    "k": Annotated[
        int | None,
        typer.Option("--num", "-k", min=1, help="How many eigenvalues (default 5).", show_default=False),
    ],
    "lr": Annotated[
        str | None,
        typer.Option(
            "--lr",
            metavar="NUMBER|auto",
            help="Learning rate: the largest eigenvalue against 2 / lr; auto: as each checkpoint's optimizer had it.",
            show_default=False,
        ),
    ],
    "warm_start": Annotated[
        str | None,
        typer.Option(
            "--warm-start",
            metavar="|".join(_WARM_START),
            callback=completion.one_of("--warm-start", tuple(_WARM_START)),
            autocompletion=completion.words(tuple(_WARM_START)),
            help="Searches begin with the eigenvectors of the checkpoint before; auto measures whether that pays "
            "(default auto).",
            show_default=False,
        ),
    ],
}


def track(flags: dict[str, Any], output: Output) -> None:
    """The same analyses over the checkpoints of a training run: one row per checkpoint in a JSON Lines file (-o).

    Each search for eigenpairs may start from the vectors of the checkpoint before. Started again, it goes on after the
    last row. The analyses are those of the project file; without one the five largest eigenvalues.
    """
    from curvtool.cli.console import make_console, show_settings
    from curvtool.cli.execute import keeping_of
    from curvtool.cli.progress import TerminalObserver
    from curvtool.cli.ranks import joined
    from curvtool.config.resolve import resolve_all
    from curvtool.render.track import print_rows, row_line
    from curvtool.threads import fit
    from curvtool.tracking.checkpoints import found_by

    pattern, shard = flags.pop("checkpoint"), flags.pop("shard")
    start = _WARM_START[flags.pop("warm_start") or "auto"]
    paths = found_by(pattern, shard)
    errors = make_console(output, stderr=True)
    if not paths:
        errors.print(f"no checkpoints in part {shard}: there are fewer than parts", markup=False, highlight=False)
        return
    flags["checkpoint"] = str(paths[0])
    configs = resolve_all(flags, config_file=output.config, default="eigs")
    given = [flag for flag, name in (("-k", "k"), ("--lr", "lr")) if flags[name] is not None]
    if given and not any(config.analysis.kind == "eigs" for config in configs):
        raise UsageError(
            "CT003",
            f"{given[0]} is for eigenvalues alone",
            expected='an [[analysis]] of kind = "eigs" in the project file',
            received=", ".join(config.analysis.kind for config in configs),
            remedy=f"leave out {given[0]}, or add the analysis",
        )
    with joined(configs[0].compute.rank_timeout) as cluster:
        from curvtool.tracking.track import Track

        if output.verbose and cluster.is_first:
            show_settings(configs, errors)
        target = _target(output)
        track = Track(configs, paths, target, shard, start, cluster, keeping_of(output), interruption.was_asked)
        quiet = output.quiet or not cluster.is_first
        with TerminalObserver(errors, quiet=quiet, verbose=output.verbose) as observer:
            told = fit(cluster.size)
            if told is not None:
                observer.notice(told)
            rows = []
            for row in track.rows(observer):
                rows.append(row)
                if not quiet:
                    observer.notice(row_line(row))
        if cluster.is_first:
            if output.json == "-" or output.format == "json":
                sys.stdout.writelines(json.dumps(row.model_dump(mode="json"), allow_nan=False) + "\n" for row in rows)
            else:
                print_rows(rows, make_console(output))
        if track.failed is not None:
            raise track.failed
        if track.was_stopped:
            raise SystemExit(EXIT_INTERRUPTED if interruption.was_ctrl_c() else EXIT_RESUMABLE)


def command() -> Callable[..., None]:
    """`track` with its options."""
    return with_options(None, argument="PATTERN", help=_HELP, own=_OWN)(track)


def _target(output: Output) -> Path:
    """The file of the rows.

    Raises:
        UsageError: CT001, CT005, several, or one of another format.
    """
    refuse_unless(
        len(output.output) <= 1,
        "the rows go to one file",
        "-o once",
        len(output.output),
        "curvtool render for others",
    )
    target = output.output[0] if output.output else Path("track.jsonl")
    if target.suffix != ".jsonl":
        raise UsageError(
            "CT005", f"no format for {target.name}", expected="a name that ends in .jsonl, for the rows",
            received=target.suffix or "no suffix",
            remedy=f"-o {target.stem or 'track'}.jsonl, and then curvtool render",
        )  # fmt: skip
    return target
