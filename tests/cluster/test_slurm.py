"""The shipped job scripts on a real Slurm, started here out of a folder."""

import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from slurm import ENDED, SlurmCluster, missing

SCRIPTS = Path(__file__).parents[2] / "scripts"
LARGEST = 15.399  # eigenvalue of demo:digits

# as curvtool behind slurm_multinode: stopped by USR2 it leaves a state behind and ends with 75, and goes on from there.
# Its ranks take a different time to write; `fail` ends one of them with 2
STAND_IN = """\
#!/bin/bash
rank=$SLURM_PROCID state=${*: -1}
if [ "$1" = fail ] && [ "$rank" = 1 ]; then exit 2; fi
if [ -e "$state/rank-$rank" ]; then echo "resumed $1 $2"; exit; fi
mkdir -p "$state"
trap 'sleep $rank; touch "$state/rank-$rank"; exit 75' USR2 TERM
touch "$state/running-$rank"
while :; do sleep 0.1; done
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with started(tmp_path_factory, num_nodes=1) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory):
    """A cluster on which the program named curvtool is the stand-in."""
    with started(tmp_path_factory, num_nodes=2) as cluster:
        folder = tmp_path_factory.mktemp("bin")
        (folder / "curvtool").write_text(STAND_IN)
        (folder / "curvtool").chmod(0o755)
        cluster.environment["PATH"] = f"{folder}:{cluster.environment['PATH']}"
        yield cluster


def started(factory, num_nodes):
    reason = missing()
    if reason:
        pytest.skip(reason)
    cluster = SlurmCluster(factory.mktemp("slurm"), num_cpus=4, num_nodes=num_nodes)
    # a job gets the environment in which it is handed in: its curvtool is the one beside this Python
    cluster.environment["PATH"] = f"{Path(sys.executable).parent}:{cluster.environment['PATH']}"
    return cluster


def until(true, timeout=60):
    end = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


def eigenvalues(path):
    (analysis,) = json.loads(path.read_text())["analyses"]
    return [pair["value"] for pair in analysis["eigenvalues"]]


def test_each_task_of_a_step_has_a_rank(cluster, tmp_path):
    script = tmp_path / "job.sh"
    script.write_text("#!/bin/bash\nsrun -n2 bash -c 'echo $SLURM_PROCID of $SLURM_NTASKS'\n")
    job = cluster.sbatch(script, options=f"-n2 --chdir={tmp_path}")
    assert cluster.wait(job, 20) == "COMPLETED"
    assert sorted(cluster.output(job).split("\n")) == ["", "0 of 2", "1 of 2"]


def test_a_single_job_writes_its_report(cluster, tmp_path):
    words = "eigs demo:digits -k 1 --rtol 0.1 --json report.json"
    job = cluster.sbatch(SCRIPTS / "slurm_single.sbatch", *words.split(), options=f"--chdir={tmp_path}")
    assert cluster.wait(job, 120) == "COMPLETED", cluster.output(job)
    assert eigenvalues(tmp_path / "report.json") == [pytest.approx(LARGEST, rel=1e-3)]


def test_a_single_job_ends_with_the_status_of_curvtool(cluster, tmp_path):
    words = "eigs demo:digits --no-such-option"
    job = cluster.sbatch(SCRIPTS / "slurm_single.sbatch", *words.split(), options=f"--chdir={tmp_path}")
    assert cluster.wait(job, 120) == "FAILED"
    assert cluster.show(job)["ExitCode"] == "2:0"
    assert "--no-such-option" in cluster.output(job)


def test_an_array_writes_a_report_for_each_checkpoint(cluster, tmp_path):
    (tmp_path / "models.py").write_text("import torch\n\n\ndef net():\n    return torch.nn.Linear(5, 3)\n")
    np.savez(tmp_path / "data.npz", x=np.eye(5, dtype=np.float32), y=np.arange(5) % 3)
    for name, size in (("a", 0.0), ("b", 1.0)):
        (tmp_path / "runs" / name).mkdir(parents=True)
        weights = {"weight": torch.arange(15.0).reshape(3, 5) * size, "bias": torch.zeros(3)}
        torch.save(weights, tmp_path / "runs" / name / "model.pt")
    (tmp_path / "list").write_text("./runs/a/model.pt\nruns/b/model.pt\nruns/c/model.pt\nruns/c/model.pth\n")
    job = cluster.sbatch(
        SCRIPTS / "slurm_array.sbatch",
        *["list", "eigs", "--factory", "models:net", "--data", "data.npz", "-k", "1", "--rtol", "0.1"],
        options=f"--chdir={tmp_path} --array=1-5",
    )
    states = [cluster.wait(f"{job}_{task}", 120) for task in range(1, 6)]
    assert states == ["COMPLETED", "COMPLETED", "FAILED", "FAILED", "FAILED"], cluster.output(f"{job}_1")
    assert "several lines of list would write reports/runs_c_model.json" in cluster.output(f"{job}_4")
    assert "list has nothing in line 5" in cluster.output(f"{job}_5")
    reports = sorted((tmp_path / "reports").iterdir())
    assert [report.name for report in reports] == ["runs_a_model.json", "runs_b_model.json"]
    # three equal logits: 1/3; the inputs with the bias' one: the largest eigenvalue of their second moments is 6/5
    assert eigenvalues(reports[0]) == [pytest.approx(0.4, rel=1e-3)]
    assert eigenvalues(reports[1])[0] < 0.1


def test_a_job_over_nodes_goes_on_after_a_signal(two_nodes, tmp_path):
    state = tmp_path / "state"
    job = two_nodes.sbatch(
        SCRIPTS / "slurm_multinode.sbatch",
        *("eigs", "two words"),
        options=f"--chdir={tmp_path}",
        env={"STATE": str(state)},
    )
    until(lambda: all((state / f"running-{rank}").exists() for rank in (0, 1)))
    two_nodes.signal(job, "USR2")
    assert two_nodes.wait(job, 60) == "COMPLETED", two_nodes.output(job)
    assert two_nodes.show(job)["Restarts"] == "1"
    assert two_nodes.output(job).count("curvtool ended with status 75") == 1
    for rank in (0, 1):
        log = tmp_path / f"curvtool-{job}.logs" / f"rank-{rank}.log"
        assert log.read_text().endswith("resumed eigs two words\n")


def test_a_job_over_nodes_that_fails_is_not_run_again(two_nodes, tmp_path):
    job = two_nodes.sbatch(
        SCRIPTS / "slurm_multinode.sbatch", "fail", options=f"--chdir={tmp_path}", env={"RANK_WAIT": "2"}
    )
    assert two_nodes.wait(job, 60) == "FAILED", two_nodes.output(job)
    assert two_nodes.show(job)["Restarts"] == "0"


def test_a_job_over_nodes_that_is_cancelled_is_not_run_again(two_nodes, tmp_path):
    state = tmp_path / "state"
    job = two_nodes.sbatch(
        SCRIPTS / "slurm_multinode.sbatch", "eigs", options=f"--chdir={tmp_path}", env={"STATE": str(state)}
    )
    until(lambda: (state / "running-0").exists())
    two_nodes.cancel(job)
    assert two_nodes.wait(job, 60) == "CANCELLED"
    assert two_nodes.show(job)["Restarts"] == "0"


def test_curvtool_itself_goes_on_after_a_signal(cluster, tmp_path):
    state = tmp_path / "state"
    words = "eigs demo:digits -k 20 --rtol 1e-6 --dtype float64 --checkpoint-seconds 1 --json report.json"
    job = cluster.sbatch(
        SCRIPTS / "slurm_multinode.sbatch",
        *words.split(),
        options=f"--chdir={tmp_path} --nodes=1 --ntasks-per-node=2",
        env={"STATE": str(state)},
    )
    until(lambda: any(state.glob("*")) or cluster.show(job)["JobState"] in ENDED, timeout=120)
    log = tmp_path / f"curvtool-{job}.logs" / "rank-0.log"
    assert cluster.show(job)["JobState"] == "RUNNING", log.read_text()
    cluster.signal(job, "USR2")
    assert cluster.wait(job, 240) == "COMPLETED", log.read_text()
    assert cluster.show(job)["Restarts"] == "1"
    values = eigenvalues(tmp_path / "report.json")
    assert len(values) == 20
    assert values[0] == pytest.approx(LARGEST, rel=1e-3)
