"""Reports of every kind of analysis, made once."""

import pytest

from curvtool.config.resolve import resolve_all
from curvtool.report.model import TrackRow
from curvtool.session.run import run_all

RUNS = """\
[model]
checkpoint = "demo:digits"
[data]
num_samples = 60
[compute]
device = "cpu"
operations = "torch"
hvp = "fresh"
[[analysis]]
kind = "eigs"
k = 3
which = "be"
lr = 0.3
per_layer = true
[[analysis]]
kind = "trace"
rtol = 0.2
per_layer = true
[[analysis]]
kind = "density"
method = "probes"
probes = 2
steps = 10
outliers = 3
[[analysis]]
kind = "diag"
rtol = 0.5
[[analysis]]
kind = "jacnorm"
top = 4
directions = "{directions}"
[[analysis]]
kind = "check"
"""


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """One report with an analysis of every kind."""
    file = tmp_path_factory.mktemp("runs") / "runs.toml"
    file.write_text(RUNS.replace("{directions}", str(file.parent / "directions.safetensors")))
    return run_all(resolve_all({}, config_file=str(file), environment={})).report


@pytest.fixture(scope="session")
def rows(whole):
    """Three checkpoints of a training run."""
    return [
        TrackRow(
            run="runs/a", checkpoint=f"runs/a/step_{step}.pt", step=step, settings="s", start="cold", status="complete",
            problem=whole.problem, analyses=whole.analyses[:2], warnings=[], checkpoint_sha256="0", ended="now",
        )
        for step in (10, 20, 30)
    ]  # fmt: skip
