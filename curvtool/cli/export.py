"""`curvtool export`: reports to experiment trackers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from curvtool.report.model import Report, TrackRow

app = typer.Typer(
    no_args_is_help=True,
    help="Reports, or the rows of track, to an experiment tracker: numbers with their errors under a Monitor's names "
    "(curvature/lambda_max, curvature/lambda_max_error, …), settings, warnings, pictures and page.",
)
Reports = Annotated[
    list[Path], typer.Argument(metavar="REPORT …", help="Reports (.json), or rows of track (.jsonl), a run each.")
]
Name = Annotated[str | None, typer.Option("--name", help="Of the run; the file's name where left out.")]
Step = Annotated[int, typer.Option("--step", min=0, max=2**53, help="Of a report's numbers; rows have their own.")]


@app.command()
def tensorboard(
    reports: Reports,
    logdir: Annotated[Path, typer.Option("--logdir", help="What tensorboard --logdir is given.")] = Path("runs"),
    name: Name = None,
    step: Step = 0,
) -> None:
    """Event files for TensorBoard, a folder a run."""
    from curvtool.export.tensorboard import to_tensorboard

    def send(found: Report | Sequence[TrackRow], run: str) -> list[str]:
        return [str(folder) for folder in to_tensorboard(found, logdir, name=run, step=step)]

    _each(reports, name, send, f"tensorboard --logdir {logdir}")


@app.command()
def mlflow(
    reports: Reports,
    tracking_uri: Annotated[
        str | None, typer.Option("--tracking-uri", help="Server or database; MLflow's own where left out.")
    ] = None,
    experiment: Annotated[str, typer.Option("--experiment", help="Made where there is none.")] = "curvtool",
    name: Name = None,
    step: Step = 0,
) -> None:
    """Runs of an MLflow experiment."""
    import os

    from curvtool.export.mlflow import to_mlflow

    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # its own seven take minutes

    def send(found: Report | Sequence[TrackRow], run: str) -> list[str]:
        return to_mlflow(found, tracking_uri=tracking_uri, experiment=experiment, name=run, step=step)

    _each(reports, name, send)


@app.command()
def wandb(
    reports: Reports,
    project: Annotated[str, typer.Option("--project", help="To log to.")] = "curvtool",
    entity: Annotated[str | None, typer.Option("--entity", help="User or team; by default the account's.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Write files alone, for wandb sync later.")] = False,
    folder: Annotated[Path | None, typer.Option("--dir", help="For wandb's files; ./wandb where left out.")] = None,
    name: Name = None,
    step: Step = 0,
) -> None:  # fmt: skip
    """Runs of a Weights & Biases project."""
    from curvtool.export.wandb import to_wandb

    def send(found: Report | Sequence[TrackRow], run: str) -> list[str]:
        return to_wandb(
            found, project=project, entity=entity, name=run, step=step, offline=offline, folder=folder
        )  # fmt: skip

    _each(reports, name, send)


def _each(
    reports: list[Path],
    name: str | None,
    send: Callable[[Report | Sequence[TrackRow], str], list[str]],
    next_command: str = "",
) -> None:
    """All are read before the first one is sent."""
    from importlib.util import find_spec

    from curvtool.cli.console import say
    from curvtool.errors import CurvtoolError, LoadError
    from curvtool.report.read import read_any, read_from, short_names

    found = [read_any(path) for path in reports]
    names = [each.replace("/", "-") for each in short_names(reports)]
    if name is not None:
        names = [name] if len(names) == 1 else [f"{name}-{each}" for each in names]
    failed: CurvtoolError | None = None
    for each, run in zip(found, names, strict=True):
        try:
            with read_from(*reports):
                places = send(each, run)
            for place in places:
                say(f"{run}: {place}")
        except LoadError as error:  # the others may still go
            say(f"{run}: not sent: {error.received}")
            failed = failed or error
    if failed is not None:
        raise failed
    if find_spec("matplotlib") is None:
        say("without pictures and page: pip install 'curvtool[plot]'")
    if next_command:
        say(f"look at them: {next_command}")
