"""`curvtool render` and `-o`: every format from a report, and what is no report is told."""

import json
import os
import subprocess
import sys

import pytest

from curvtool.render.formats import FORMATS


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    from curvtool.config.resolve import resolve
    from curvtool.session.run import run as run_one

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


def test_a_path_with_brackets(run, report, tmp_path):
    content = json.loads(report.read_text())
    content["problem"]["model"] = "odd [red]/[/red]x [bold].pt"
    (tmp_path / "r.json").write_text(json.dumps(content))
    status, out, _ = run("render", tmp_path / "r.json")
    assert status == 0 and "odd [red]/[/red]x [bold].pt" in out


def test_names_without_a_suffix(run, report, tmp_path):
    for name in (".", "..", tmp_path / "out."):
        status, _, err = run("render", report, "-o", name)
        assert status == 2 and "CT005" in err and ".json" in err


def test_rows_are_no_report_to_compare(run, report, tmp_path):
    (tmp_path / "track.jsonl").write_text("{}\n{}\n")
    status, _, err = run("compare", report, tmp_path / "track.jsonl")
    assert status == 3 and "holds rows of track" in err


def test_reports_that_are_none_are_told_apart(run, tmp_path):
    for content, told in ((b"", "empty"), (b'{"a": ', "cut off"), (b"\xff\xfe\x00", "no text"), (b"hello", "no JSON")):
        (tmp_path / "r.json").write_bytes(content)
        status, _, err = run("render", tmp_path / "r.json")
        assert status == 3 and told in err


def test_a_reader_of_the_output_that_goes_away(tmp_path):
    words = f"{sys.executable} -m curvtool eigs --help | head -c 1 > /dev/null; exit ${{PIPESTATUS[0]}}"
    assert subprocess.run(["bash", "-c", words], capture_output=True).returncode in (0, 141)


def test_letters_that_the_terminal_does_not_have(report, tmp_path):
    content = json.loads(report.read_text())
    content["problem"]["model"] = "n\u00e4me.pt"
    (tmp_path / "r.json").write_text(json.dumps(content))
    words = [sys.executable, "-m", "curvtool", "render", str(tmp_path / "r.json")]
    done = subprocess.run(words, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and b"n?me.pt" in done.stdout
