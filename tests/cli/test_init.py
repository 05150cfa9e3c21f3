"""A project file from what a folder holds, and where every setting comes from."""

import json
import tomllib

import numpy as np
import pytest
import torch

MODELS = """
import torch
raise SystemExit("must not be executed")

class Net(torch.nn.Module):
    pass

def build() -> torch.nn.Module:
    return Net()

class Other:
    pass
"""

LINEAR = """
import torch

class Net(torch.nn.Linear, torch.nn.Module):
    def __init__(self):
        super().__init__(4, 2)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    torch.save({"weight": torch.ones(2, 4), "bias": torch.zeros(2)}, tmp_path / "runs" / "net.pt")
    np.savez(tmp_path / "data.npz", inputs=np.ones((6, 4), np.float32), targets=np.zeros(6, np.int64))
    return tmp_path


def test_what_is_found(run, folder):
    (folder / "models.py").write_text(MODELS)
    status, _, err = run("init")
    assert status == 0 and "models:Net" in err and "net.pt" in err
    found = tomllib.loads((folder / "curvtool.toml").read_text())
    assert found["model"] == {"checkpoint": "runs/net.pt", "factory": "models:Net"}
    assert found["data"] == {"source": "data.npz"}
    assert [analysis["kind"] for analysis in found["analysis"]] == ["eigs", "trace"]
    assert '# factory = "models:build"' in (folder / "curvtool.toml").read_text()


def test_it_runs(run, folder):
    (folder / "linear.py").write_text(LINEAR)
    assert run("init")[0] == 0
    status, out, err = run("run", "-q")
    assert status == 0, err
    assert "Eigenvalues of the Hessian" in out and "Trace of the Hessian" in out


def test_an_empty_folder(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, err = run("init")
    assert status == 0 and "none found" in err
    found = tomllib.loads((tmp_path / "curvtool.toml").read_text())
    assert found["model"] == {} and found["data"] == {}
    assert run("config", "show")[0] == 0


def test_a_file_that_is_there_is_kept(run, folder):
    (folder / "curvtool.toml").write_text("[model]\n")
    status, _, err = run("init")
    assert status == 2 and "CT007" in err and (folder / "curvtool.toml").read_text() == "[model]\n"
    assert run("init", "--force")[0] == 0 and "runs/net.pt" in (folder / "curvtool.toml").read_text()


def test_where_settings_come_from(run, folder, monkeypatch):
    assert run("init")[0] == 0
    monkeypatch.setenv("CURVTOOL_BATCH_SIZE", "16")
    status, out, _ = run("config", "show", "--format", "json")
    assert status == 0
    found = {row["setting"]: (row["value"], row["from"]) for row in json.loads(out)}
    assert found["data.batch_size"] == ("16", "CURVTOOL_BATCH_SIZE")
    assert found["model.checkpoint"][0].endswith("runs/net.pt") and found["model.checkpoint"][1].endswith(".toml")
    assert found["eigs.k (analysis 1)"][0] == "5"
    assert "compute.seed" not in found
    for format in ("table", "csv", "md"):
        assert "CURVTOOL_BATCH_SIZE" in run("config", "show", "--format", format)[1]
    assert "compute.seed" in run("config", "show", "--all")[1]


def test_a_mistake_in_the_file(run, folder):
    (folder / "curvtool.toml").write_text("[model]\ncheckpont = 'a.pt'\n")
    status, _, err = run("config", "show")
    assert status == 2 and "checkpoint" in err


def test_what_code_makes_is_seen_without_running_it(tmp_path, monkeypatch, run):
    import torch

    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "import torch.nn as nn\nraise SystemExit\n"
        "class Net(nn.Module): ...\ndef small(): return nn.Linear(2, 2)\ndef whole(): return Net()\n"
        "def other(): return 3\ndef get_data(): ...\ndef data(path): ...\n"
    )
    from curvtool.problem.nearby_code import flags_here, models_of, sources_of

    assert models_of(tmp_path / "mine.py", tmp_path) == ["mine:Net", "mine:small", "mine:whole"]
    assert sources_of(tmp_path / "mine.py", tmp_path) == ["mine:get_data"]
    assert flags_here() == ("mine:whole", "mine:get_data")
    torch.save({"w": torch.ones(2, 2)}, "net.pt")
    assert "--factory mine:whole" in run("eigs", "net.pt")[2]
    assert "--factory mine:whole --data mine:get_data" in run("inspect", "net.pt")[1]
