"""A report in TensorBoard's event files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from curvtool.errors import UsageError
from curvtool.export.material import missing, runs_of
from curvtool.report.model import Report, TrackRow

_SUFFIX = ".curvtool"  # of our event files, beside a training's own


def to_tensorboard(
    found: Report | Sequence[TrackRow], logdir: str | Path, *, name: str = "curvtool", step: int = 0
) -> list[Path]:
    """Writes numbers with their errors as scalars, charts as images, settings, tables and warnings as text.

    Args:
        found: a report, or the rows of `track` (one TensorBoard run for each of their training runs).
        logdir: what `tensorboard --logdir` is given; a run is a folder in it.
        name: of the run.
        step: of a report's numbers; rows have their own.

    Returns:
        The runs' folders.

    Raises:
        UsageError: CT005, TensorBoard is not installed; CT007, the folder cannot be written to.
    """
    folders = []
    for run in runs_of(name, found):
        folder = Path(logdir) / run.name
        for ours in folder.glob(f"*{_SUFFIX}"):  # a second export takes the first one's place
            ours.unlink()
        with _writer(folder) as writer:
            last = step
            for tag, value, at in run.scalars(step):
                writer.add_scalar(tag, value, at)
                last = at
            for title, png in run.pictures():
                from matplotlib.image import imread

                writer.add_image(f"curvature/{title}", imread(io.BytesIO(png), format="png"), last, dataformats="HWC")
            settings = "\n".join(["| setting | value |", "| --- | --- |",
                                  *(f"| {key} | {value} |" for key, value in run.settings().items())])  # fmt: skip
            writer.add_text("curvature/settings", settings, last)
            told = dict(run.files())["report.md"].decode()
            writer.add_text("curvature/report", told, last)
            if run.warnings():
                writer.add_text("curvature/warnings", "\n".join(f"- {line}" for line in run.warnings()), last)
        folders.append(folder)
    return folders


def _writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise missing("tensorboard", "tensorboard", error) from error
    try:
        return SummaryWriter(str(folder), filename_suffix=_SUFFIX)
    except OSError as error:
        raise UsageError(
            "CT007",
            f"cannot write to {folder}",
            expected="a folder that exists or can be made",
            received=error.strerror or str(error),
            remedy="another --logdir",
        ) from error
