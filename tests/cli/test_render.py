"""`curvtool render` and `-o`: every format from a report, and what is no report is told."""

import json

import pytest

from curvtool.render.formats import FORMATS


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    from curvtool.config.resolve import resolve
    from curvtool.pipeline.run import run as run_one

    flags = {"num_samples": 40, "k": 2, "lr": 0.1, "device": "cpu", "operations": "torch", "hvp": "fresh"}
    path = tmp_path_factory.mktemp("report") / "report.json"
    path.write_text(run_one(resolve("eigs", flags, environment={})).report.model_dump_json())
    return path


@pytest.mark.parametrize("format", FORMATS)
def test_every_format(run, report, tmp_path, format):
    status, out, err = run("render", report, "-o", tmp_path / f"out.{format}")
    assert status == 0 and out == "" and "written" in err
    assert (tmp_path / f"out.{format}").stat().st_size > 100


def test_as_a_table(run, report):
    status, out, _ = run("render", report)
    assert status == 0 and "Eigenvalues of the Hessian" in out and "above 2" in out
    assert run("render", report, "--format", "json")[1].strip().startswith("{")


def test_straight_from_a_run(run, tmp_path):
    words = ["--num-samples", "40", "-k", "1", "-o", tmp_path / "page.html", "-q"]
    assert run("eigs", *words)[0] == 0
    assert "<canvas" not in (tmp_path / "page.html").read_text() and "uPlot" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("", "CT070"),
        ("[1, 2]", "CT070"),
        ('{"schema_version": "1.0", "status": "dry_run"}', "CT070"),
        ('{"schema_version": "9.0", "analyses": []}', "CT071"),
        ('{"schema_version": "1.0", "analyses": [{"kind": "eigs"}]}', "CT070"),
    ],
)
def test_what_is_no_report(run, tmp_path, content, code):
    path = tmp_path / "report.json"
    path.write_text(content)
    status, _, err = run("render", path)
    assert status == 3 and code in err and "try:" in err


def test_no_such_file(run, tmp_path):
    assert run("render", tmp_path / "nowhere.json")[0] == 3
    assert run("render", tmp_path / "nowhere.jsonl")[0] == 3


def test_an_extra_that_is_missing(run, report, tmp_path, monkeypatch):
    from curvtool.render import formats

    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    status, _, err = run("render", report, "-o", tmp_path / "x.png")
    assert status == 2 and "curvtool[plot]" in err
    status, _, err = run("eigs", "-o", tmp_path / "x.html")
    assert status == 2 and "curvtool[plot]" in err  # before anything is computed


def test_a_picture_that_cannot_be_drawn_loses_no_numbers(run, tmp_path, monkeypatch):
    from curvtool.render import pictures

    def broken(*_):
        raise ValueError("no such font")

    monkeypatch.setattr(pictures, "draw", broken)
    words = ["--num-samples", "40", "-k", "1", "-o", tmp_path / "x.png", "--json", tmp_path / "r.json"]
    monkeypatch.chdir(tmp_path)
    status, out, _ = run("eigs", *words)
    assert status == 1 and "Eigenvalues of the Hessian" in out
    assert json.loads((tmp_path / "r.json").read_text())["status"] == "complete"
