"""A report as a run of Weights & Biases."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from curvtool.errors import LoadError
from curvtool.export.material import Run, missing, runs_of
from curvtool.report.model import Report, TrackRow


def to_wandb(
    found: Report | Sequence[TrackRow],
    *,
    project: str = "curvtool",
    entity: str | None = None,
    name: str = "curvtool",
    step: int = 0,
    offline: bool = False,
    folder: str | Path | None = None,
) -> list[str]:
    """Logs numbers with their errors by step, settings as the run's config, pictures, page, and the report as a file.

    Args:
        found: a report, or the rows of `track` (one run for each of their training runs).
        project: to log to.
        entity: user or team; without it the account's own.
        name: of the run.
        step: of a report's numbers; rows have their own, and must not go backwards.
        offline: write to `folder` alone, for `wandb sync` later.
        folder: where wandb keeps its files; `WANDB_DIR` or the working folder where left out.

    Returns:
        Where each run lies: its address, or its folder when offline.

    Raises:
        UsageError: CT005, wandb is not installed.
        LoadError: CT073, the server did not take it, or nobody is logged in.
    """
    try:
        import wandb
    except ImportError as error:
        raise missing("wandb", "wandb", error) from error
    # wandb's own choice is the folder that the process was in when wandb was first used
    place = os.environ.get("WANDB_DIR") if folder is None else str(folder)
    place = place or str(Path.cwd())
    made = []
    try:
        for run in runs_of(name, found):
            opened = wandb.init(
                project=project,
                entity=entity,
                name=run.name,
                config=run.settings(),
                dir=place,
                mode="offline" if offline else None,
                settings=wandb.Settings(silent=True),
                reinit="create_new",
            )
            with opened:
                _log(run, opened, step)
                made.append(str(opened.dir if opened.offline else opened.url))
    except (wandb.Error, OSError) as error:
        raise LoadError(
            "CT073",
            "Weights & Biases did not take the report",
            expected="a login, and a server that answers",
            received=(str(error).strip().splitlines() or [type(error).__name__])[0][:200],
            remedy="wandb login; or --offline, and wandb sync later",
        ) from error
    return made


def _log(run: Run, opened: Any, step: int) -> None:
    import wandb

    by_step: dict[int, dict[str, Any]] = {}
    for tag, value, at in run.scalars(step):
        by_step.setdefault(at, {})[tag] = value
    last = by_step.setdefault(max(by_step, default=step), {})
    for title, png in run.pictures():
        from matplotlib.image import imread

        pixels = (255 * imread(io.BytesIO(png), format="png")).round().astype("uint8")
        last[f"curvature/{title}"] = wandb.Image(pixels)
    files = dict(run.files())
    if "report.html" in files:
        last["curvature/report"] = wandb.Html(files["report.html"].decode(), inject=False)
    for at in sorted(by_step):
        opened.log(by_step[at], step=at)
    if run.warnings():
        opened.summary["curvature/warnings"] = "\n".join(run.warnings())
    artifact = wandb.Artifact(f"curvature-{opened.id}", "curvature-report")
    for file, content in files.items():
        with artifact.new_file(file, mode="wb") as target:
            target.write(content)
    opened.log_artifact(artifact)
