"""Flags: given twice, switched off, out of range; each refused before anything is loaded."""

import json
from pathlib import Path

import pytest

from curvtool import registry

DEMO = ["demo:digits", "--num-samples", "40", "--device", "cpu", "--hvp", "fresh", "--operations", "torch"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_two_files_are_both_written(here, run):
    command = ("trace", *DEMO, "--rtol", "0.3", "-o", "a.csv", "-o", "a.md", "--json", "a.json", "--output", "b.json")
    status, _, err = run(*command)
    assert status == 0, err
    assert Path("a.csv").exists() and Path("a.md").exists()
    assert json.loads(Path("a.json").read_text()) == json.loads(Path("b.json").read_text())
    assert run("render", "a.json", "-o", "c.md", "-o", "c.csv")[0] == 0 and Path("c.csv").exists()
    assert run("compare", "a.json", "b.json", "-o", "d.md", "-o", "d.csv")[0] == 0 and Path("d.md").exists()
    status, _, err = run("trace", *DEMO, "-o", "a.csv", "-o", "a.nothing")
    assert status == 2 and "CT005" in err


def test_the_standard_output_by_another_name(here, run):
    status, out, err = run("trace", *DEMO, "--rtol", "0.3", "--json", "/dev/stdout")
    assert status == 0 and json.loads(out)["status"] == "complete", err


@pytest.mark.parametrize(
    "words",
    [
        ("eigs", "--rtol", "0.1", "--rtol", "0.2"),
        ("eigs", "-k", "2", "--num", "3"),
        ("trace", "--json", "a.json", "--json", "b.json"),
        ("density", "--per-layer", "--seed", "1", "--seed", "1"),
        ("trace", "--per-layer", "--no-per-layer"),
        ("render", "a.json", "--format", "md", "--format", "csv"),
    ],
)
def test_any_other_flag_twice_is_an_error(words, here, run):
    if "--per-layer" in words and words[0] == "density":
        words = tuple(word for word in words if word != "--per-layer")
    status, out, err = run(*words[:1], *(DEMO if words[0] != "render" else []), *words[1:])
    assert status == 2 and "CT003" in err and "2 times" in err and not out
    assert not Path("a.json").exists()


def test_flags_that_may_be_repeated_still_may(here, run):
    status, _, err = run("check", *DEMO, "--params", "0.*", "--params", "3.*", "-v", "-v", "-q", "--hvp", "fresh")
    assert status == 2 and "--hvp" in err  # the one that is there twice
    command = [word for word in DEMO if word not in {"--hvp", "fresh"}]
    status, _, err = run("eigs", *command, "--params", "0.*", "--params", "3.*", "-k", "1", "--rtol", "0.3")
    assert status == 0, err


def test_a_flag_switches_off_what_the_file_switched_on(here, run):
    Path("curvtool.toml").write_text('[[analysis]]\nkind = "trace"\nper_layer = true\nrtol = 0.3\n')
    assert run("trace", *DEMO, "--json", "a.json")[0] == 0
    assert json.loads(Path("a.json").read_text())["analyses"][0]["per_layer"]
    assert run("trace", *DEMO, "--no-per-layer", "--json", "b.json")[0] == 0
    report = json.loads(Path("b.json").read_text())
    assert report["analyses"][0]["per_layer"] is None
    assert report["provenance"]["config_sources"]["trace.per_layer"] == "flag"


def test_every_switch_of_every_command_can_be_switched_off(run):
    for kind in registry.kinds():
        status, out, _ = run(kind, "--help")
        assert status == 0 and "--no-tf32" in out.replace(" ", ""), kind


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (("eigs", "--rtol", "2"), "--rtol"),
        (("eigs", "--rtol", "1"), "--rtol"),
        (("eigs", "--rtol", "nan"), "--rtol"),
        (("eigs", "--vector-rtol", "1.5"), "--vector-rtol"),
        (("trace", "--rtol", "2"), "--rtol"),
        (("diag", "--rtol", "2"), "--rtol"),
        (("verify", "--rtol", "2"), "--rtol"),
        (("verify", "--tools", "dense,matlab"), "matlab"),
        (("eigs", "--method", "power", "--which", "la"), "power iteration"),
        (("eigs", "--method", "power", "--block-size", "2"), "power iteration"),
        (("eigs", "--atol", "inf"), "--atol"),
        (("trace", "--rank", "3"), "rank"),
        (("trace", "--method", "xtrace", "--per-layer"), "layers"),
    ],
)
def test_a_wrong_value_is_refused_before_anything_is_loaded(words, flag, here, run, monkeypatch):
    def load(*_, **__):
        raise AssertionError("it was loaded")

    monkeypatch.setattr("curvtool.session.run.load", load)
    status, out, err = run(words[0], "nothing.pt", *words[1:])
    excludes = flag in {"power iteration", "rank", "layers"}  # settings that are fine one by one
    assert status == 2 and ("CT003" if excludes else "CT001") in err and flag in err and "try:" in err and not out
