"""Reports in experiment trackers, read back by the trackers' own readers; nothing goes over the network."""

import json
import struct
import time

import pytest

from curvtool.export.material import Run, runs_of
from curvtool.monitor import Monitor

NUMBERS = {"curvature/lambda_max", "curvature/lambda_max_error", "curvature/trace", "curvature/trace_stderr"}


def log_records(data):
    """Of LevelDB's log format: blocks of 32 KiB, records of checksum (4 bytes), length (2), type (1) and content."""
    place, whole = 7, b""  # after the file's own header
    while place < len(data):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole one, or its last part
            yield whole
            whole = b""


@pytest.fixture
def files(whole, rows, tmp_path):
    (tmp_path / "report.json").write_text(whole.model_dump_json())
    (tmp_path / "track.jsonl").write_text("".join(row.model_dump_json() + "\n" for row in rows))
    return tmp_path


def test_every_number_has_its_error_and_a_monitors_name(whole):
    import torch

    found = {tag: value for tag, value, _ in Run("a", whole).scalars()}
    for tag in found:
        if not tag.endswith(("_error", "_stderr", "_degrees", "_low", "_high")):  # the last two are an interval's ends
            assert f"{tag}_error" in found or f"{tag}_stderr" in found, tag
    eigs = whole.analyses[0]
    assert found["curvature/lambda_max"] == eigs.eigenvalues[0].value
    assert found["curvature/lambda_min"] == eigs.eigenvalues[-1].value
    assert found["curvature/lambda_max_x_lr"] == eigs.stability.sharpness_times_lr
    data = (torch.randn(20, 3), torch.randint(0, 2, (20,)))
    logged = Monitor(data, "cross-entropy")(torch.nn.Linear(3, 2), 0, lr=0.1)
    assert set(logged) - {"curvature/trace_stderr"} <= set(found)
    ggn = Monitor(data, "cross-entropy", operator="ggn")(torch.nn.Linear(3, 2), 0)
    assert "curvature/ggn/lambda_max" in ggn


def test_another_matrix_and_the_same_analysis_twice(whole):
    ggn = whole.analyses[0].model_copy(update={"operator": "ggn"})
    both = whole.model_copy(update={"analyses": [whole.analyses[0], whole.analyses[0], ggn]})
    tags = [tag for tag, _, _ in Run("a", both).scalars()]
    assert len(tags) == len(set(tags))
    assert {"curvature/lambda_max_again_2", "curvature/ggn/lambda_max", "curvature/ggn/lambda_max_x_lr"} <= set(tags)


def test_rows_have_their_steps_and_training_runs_are_runs(rows):
    assert {at for _, _, at in Run("a", rows).scalars(7)} == {10, 20, 30}
    other = rows[0].model_copy(update={"run": "runs/b"})
    assert [run.name for run in runs_of("track", [*rows, other])] == ["track-a", "track-b"]


def test_pictures_have_names_of_their_own(whole):
    names = [name for name, _ in Run("a", whole).pictures()]
    assert len(names) == len(set(names)) > 5


def test_tensorboard(run, files):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for _ in range(2):  # a second export takes the first one's place
        status, out, err = run(
            "export", "tensorboard", files / "report.json", files / "track.jsonl", "--logdir", files / "runs"
        )
        assert status == 0 and out == "" and "tensorboard --logdir" in err
    found = EventAccumulator(str(files / "runs" / "track")).Reload()
    assert set(found.Tags()["scalars"]) >= NUMBERS
    assert [event.step for event in found.Scalars("curvature/lambda_max")] == [10, 20, 30]
    found = EventAccumulator(str(files / "runs" / "report")).Reload()
    report = json.loads((files / "report.json").read_text())
    (event,) = found.Scalars("curvature/lambda_max")
    assert event.value == pytest.approx(report["analyses"][0]["eigenvalues"][0]["value"], rel=1e-6)
    assert found.Tags()["images"] and "curvature/settings/text_summary" in found.Tags()["tensors"]


def test_mlflow(run, files, monkeypatch):
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    place = f"file:{files / 'mlruns'}"
    words = ["export", "mlflow", files / "report.json", files / "track.jsonl", "--tracking-uri", place]
    assert run(*words)[0] == 0
    client = MlflowClient(tracking_uri=place)
    experiment = client.get_experiment_by_name("curvtool")
    runs = {found.info.run_name: found for found in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"report", "track"} and all(found.info.status == "FINISHED" for found in runs.values())
    assert set(runs["report"].data.metrics) >= NUMBERS
    assert runs["report"].data.params["model"] == "demo:digits"
    history = client.get_metric_history(runs["track"].info.run_id, "curvature/lambda_max")
    assert [metric.step for metric in history] == [10, 20, 30]
    artifacts = {each.path for each in client.list_artifacts(runs["report"].info.run_id)}
    assert artifacts == {"report.json", "report.md", "report.html", "pictures"}


def test_wandb_offline(run, files, monkeypatch):
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_CONFIG_DIR", str(files / "config"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(files / "cache"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(files / "data"))
    status, _, err = run("export", "wandb", files / "track.jsonl", "--offline", "--dir", files)
    assert status == 0 and "offline-run" in err
    (written,) = (files / "wandb").glob("offline-run-*/run-*.wandb")
    records, until = [], time.monotonic() + 60
    while not any(record.HasField("exit") for record in records) and time.monotonic() < until:  # a service writes it
        records = [Record.FromString(data) for data in log_records(written.read_bytes())]
        time.sleep(0.1)
    steps = {}
    for record in records:
        if record.HasField("history"):
            items = {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
            steps[record.history.step.num] = items
    assert set(steps) == {10, 20, 30}
    told = {name: json.loads(value) for name, value in steps[10].items()}
    row = json.loads((files / "track.jsonl").read_text().splitlines()[0])
    assert told["curvature/lambda_max"] == pytest.approx(row["analyses"][0]["eigenvalues"][0]["value"])


def test_wandb_without_a_login(run, files, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "HOME"):
        monkeypatch.setenv(name, str(files))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    status, _, err = run("export", "wandb", files / "report.json", "--dir", files)
    assert status == 3 and "CT073" in err and "--offline" in err


def test_mlflow_that_does_not_answer(run, files, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    status, _, err = run("export", "mlflow", files / "report.json", "--tracking-uri", "http://127.0.0.1:9")
    assert status == 3 and "CT073" in err and "try:" in err


def test_a_folder_that_cannot_be_made(run, files):
    status, _, err = run("export", "tensorboard", files / "report.json", "--logdir", files / "report.json")
    assert status == 2 and "CT007" in err


@pytest.mark.parametrize(
    ("tracker", "module"), [("tensorboard", "torch.utils.tensorboard"), ("mlflow", "mlflow"), ("wandb", "wandb")]
)
def test_a_tracker_that_is_not_installed(run, files, monkeypatch, tracker, module):
    import sys

    monkeypatch.setitem(sys.modules, module, None)
    status, _, err = run("export", tracker, files / "report.json")
    assert status == 2 and f"curvtool[{tracker}]" in err


def test_no_report_is_sent_where_one_is_none(run, files):
    (files / "other.json").write_text("{}")
    words = ["export", "tensorboard", files / "report.json", files / "other.json", "--logdir", files / "runs"]
    status, _, err = run(*words)
    assert status == 3 and "CT070" in err and not (files / "runs").exists()


def test_names_that_trackers_take_for_one_are_told_apart(whole):
    eigs = whole.analyses[0]
    layer = next(iter(eigs.per_layer.values()))
    named = eigs.model_copy(update={"per_layer": {"c[x]": layer, "c(x)": layer, "/etc/x": layer}})
    tags = [tag for tag, _, _ in Run("a", whole.model_copy(update={"analyses": [named]})).scalars()]
    assert len(tags) == len(set(tags)) and not any("//" in tag for tag in tags)


@pytest.mark.parametrize("name", ["..", "", "/tmp/x", "a/b"])
def test_a_run_stays_within_its_folder(run, files, name):
    status, _, err = run("export", "tensorboard", files / "report.json", "--logdir", files / "runs", "--name", name)
    assert status == 2 and "CT001" in err and not (files / "runs").exists()
