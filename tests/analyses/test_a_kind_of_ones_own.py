"""A kind that a folder outside the package brings, and one call registers, is like any other."""

import json
import sys
from pathlib import Path

import pytest
import torch

from curvtool import registry

TOML = '[model]\ncheckpoint = "demo:digits"\n[data]\nnum_samples = 40\n'
DEMO = ["demo:digits", "--num-samples", "40", "--device", "cpu", "--hvp", "fresh", "--operations", "torch"]


@pytest.fixture
def toy(monkeypatch):
    registry.register("toy", "analyses.toy")
    yield
    registry.forget("toy")


@pytest.fixture
def call(toy, tmp_path, monkeypatch, capsys):
    from curvtool.cli import app

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["curvtool", *arguments])
        status = app._run()
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


def test_in_help_and_as_a_command(call):
    status, out, _ = call("--help")
    assert status == 0 and "toy " in out and "Largest entry of the loss's gradient, for the tests." in out
    status, out, _ = call("toy", "--help")
    assert status == 0 and "--times" in out and "A factor for the tests." in out and "--num-samples" in out
    status, out, err = call("toy", *DEMO, "--json", "a.json", "-o", "a.html")
    assert status == 0 and "The largest entry of the gradient is" in out and "toy table" in out, err
    page = Path("a.html").read_text()
    assert "Toy numbers" in page and "Toy chart" in page
    assert call("toy", *DEMO, "--times", "0.1")[0] == 2
    status, _, err = call("toy", *DEMO, "--times", "2", "--strict")
    assert status == 4 and "the toy did not converge" in err
    status, out, _ = call("toy", *DEMO, "--dry-run")
    assert status == 0 and "toy, not run" in out


def test_in_run_in_reports_in_comparisons_and_exports(call):
    from curvtool.export.material import runs_of
    from curvtool.report.read import read_report

    Path("toy.toml").write_text(TOML + '[[analysis]]\nkind = "toy"\n[[analysis]]\nkind = "trace"\nrtol = 0.3\n')
    status, _, err = call("run", "toy.toml", "--json", "a.json", "-o", "a.md")
    assert status == 0 and "| toy |" in Path("a.md").read_text(), err
    report = read_report(Path("a.json"))
    assert [each.kind for each in report.analyses] == ["toy", "trace"] and type(report.analyses[0]).__name__ == "Toy"
    assert any(tag == "curvature/toy" for tag, _, _ in runs_of("a", report)[0].scalars())
    other = json.loads(Path("a.json").read_text())
    other["analyses"][0]["largest"] *= 2
    Path("b.json").write_text(json.dumps(other))
    status, out, err = call("compare", "a.json", "b.json")
    assert status == 0 and "Toy numbers of the Hessian" in out and "differs" in out, err
    assert call("render", "a.json", "-o", "a.svg")[0] == 0 and "Toy chart" in Path("a.svg").read_text()
    del other["analyses"][0]["largest"]
    Path("c.json").write_text(json.dumps(other))
    status, _, err = call("render", "c.json")
    assert status == 3 and "CT070" in err and "largest" in err


def test_in_track(call):
    Path("net.py").write_text(
        "import torch\n"
        "def net():\n    torch.manual_seed(0)\n    return torch.nn.Linear(5, 3)\n"
        "def data():\n    g = torch.Generator().manual_seed(1)\n"
        "    return torch.randn(30, 5, generator=g), torch.arange(30) % 3\n"
    )
    for step in (1, 2):
        torch.save({"weight": step * torch.eye(3, 5), "bias": torch.arange(3.0)}, f"step_{step}.pt")
    Path("toy.toml").write_text(
        '[model]\nfactory = "net:net"\n[data]\nsource = "net:data"\n[[analysis]]\nkind = "toy"\n'
    )
    status, out, err = call("track", "step_*.pt", "--config", "toy.toml", "-o", "rows.jsonl")
    assert status == 0 and "Largest entry of the gradient between" in out, err
    status, out, err = call("render", "rows.jsonl", "-o", "rows.csv")
    assert status == 0 and Path("rows.csv").read_text().splitlines()[0].count("toy") == 3, err


def test_in_the_schema(toy):
    from curvtool.report.model import Report

    told = json.dumps(Report.model_json_schema())
    assert "Toy" in told and "The largest entry of the gradient." in told


def test_a_name_that_is_taken_is_refused(toy):
    with pytest.raises(ValueError, match="toy"):
        registry.register("toy", "another.place")
    with pytest.raises(ValueError, match="eigs"):
        registry.register("eigs", "another.place")
