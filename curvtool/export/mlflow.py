"""A report as an MLflow run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from curvtool.errors import LoadError
from curvtool.export.material import missing, runs_of
from curvtool.report.model import Report, TrackRow

_MOST = 1000  # metrics in one request, of MLflow's REST API; params: 100
_MOST_PARAMS, _LONGEST = 100, 500


def to_mlflow(
    found: Report | Sequence[TrackRow],
    *,
    tracking_uri: str | None = None,
    experiment: str = "curvtool",
    name: str = "curvtool",
    step: int = 0,
) -> list[str]:
    """Logs numbers with their errors as metrics, settings as parameters, report, page and pictures as artefacts.

    Args:
        found: a report, or the rows of `track` (one MLflow run for each of their training runs).
        tracking_uri: of the server or database; without it MLflow's own (`MLFLOW_TRACKING_URI`).
        experiment: the experiment's name; it is made where there is none.
        name: of the run.
        step: of a report's numbers; rows have their own.

    Returns:
        The runs' identifiers.

    Raises:
        UsageError: CT005, MLflow is not installed.
        LoadError: CT073, the server or database did not take it.
    """
    try:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param, RunTag
        from mlflow.exceptions import MlflowException
    except ImportError as error:
        raise missing("mlflow", "mlflow", error) from error
    made = []
    try:
        client = MlflowClient(tracking_uri=tracking_uri)
        known = client.get_experiment_by_name(experiment)
        place = known.experiment_id if known is not None else client.create_experiment(experiment)
        for run in runs_of(name, found):
            identifier = client.create_run(place, run_name=run.name).info.run_id
            now = int(1000 * time.time())
            metrics = [Metric(tag, value, now, at) for tag, value, at in run.scalars(step)]
            params = [Param(key, str(value)[:_LONGEST]) for key, value in run.settings().items()]
            tags = [RunTag("curvtool.warnings", "\n".join(run.warnings())[:_LONGEST])] if run.warnings() else []
            client.log_batch(identifier, params=params[:_MOST_PARAMS], tags=tags)
            for first in range(0, len(metrics), _MOST):
                client.log_batch(identifier, metrics=metrics[first : first + _MOST])
            with TemporaryDirectory() as folder:
                for file, content in run.files():
                    (Path(folder) / file).write_bytes(content)
                (Path(folder) / "pictures").mkdir()
                for title, png in run.pictures():
                    (Path(folder) / "pictures" / f"{title}.png").write_bytes(png)
                client.log_artifacts(identifier, folder)
            client.set_terminated(identifier)
            made.append(identifier)
    except (MlflowException, OSError) as error:
        raise LoadError(
            "CT073",
            "MLflow did not take the report",
            expected="a tracking server that answers, or a database (with the whole package: pip install mlflow)",
            received=(str(error).strip().splitlines() or [type(error).__name__])[0][:200],
            remedy="--tracking-uri http://HOST:5000, or --tracking-uri sqlite:///mlflow.db",
        ) from error
    return made
