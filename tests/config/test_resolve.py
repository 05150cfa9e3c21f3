"""A flag before a variable before the file before the default, and every key is known."""

import pytest

from curvtool import CurvtoolError
from curvtool.config.resolve import parse_arguments, resolve
from curvtool.config.section import parse_bytes

FILE = """
[model]
checkpoint = "net.pt"
factory = "models:net"
[model.factory_args]
width = 3
[data]
source = "data.npz"
batch_size = 64
[compute]
seed = 5
[[analysis]]
kind = "trace"
rtol = 0.01
[[analysis]]
kind = "eigs"
k = 7
"""


def test_precedence_and_sources(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(FILE)
    environment = {"CURVTOOL_SEED": "6", "CURVTOOL_BATCH_SIZE": "32", "CURVTOOL_TF32": "true"}
    config = resolve("eigs", {"seed": 7, "k": None}, config_file=str(path), environment=environment)
    assert (config.compute.seed, config.data.batch_size, config.compute.tf32) == (7, "32", True)
    assert config.analysis.k == 7 and config.model.factory_args == {"width": 3}
    assert config.model.checkpoint == str(tmp_path / "net.pt") and config.data.source == str(tmp_path / "data.npz")
    sources = config.sources
    assert sources["compute.seed"] == "flag" and sources["data.batch_size"] == "CURVTOOL_BATCH_SIZE"
    assert sources["eigs.k"] == str(path) and sources["eigs.rtol"] == "default"
    assert resolve("trace", {}, config_file=str(path), environment={}).analysis.rtol == 0.01
    assert resolve("jacnorm", {}, config_file=str(path), environment={}).data.batch_size == "64"


def test_project_file_of_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve("eigs", {}, environment={}).model.checkpoint is None
    (tmp_path / "curvtool.toml").write_text(FILE)
    assert resolve("eigs", {}, environment={}).model.checkpoint == "net.pt"


@pytest.mark.parametrize(
    "text,code,hint",
    [
        ("[data]\nsorce = 'x'", "CT002", "source"),
        ("[dta]\nsource = 'x'", "CT002", "data"),
        ("[[analysis]]\nkind = 'eigs'\nks = 3", "CT002", "k"),
        ("[[analysis]]\nkind = 'eig'", "CT002", "eigs"),
        ("[analysis]\nkind = 'eigs'", "CT002", "[[analysis]]"),
        ("data = 3", "CT002", "[data]"),
        ("[data]\nnum_samples = 'many'", "CT001", "int"),
        ("[data]\nnum_samples = 0", "CT001", "1"),
        ("[compute]\ndtype = 'float31'", "CT001", "float32"),
        ("[compute]\nmemory_budget = 'lots'", "CT001", "8GiB"),
        ("[compute\n", "CT008", ""),
    ],
)
def test_mistakes_in_the_file(tmp_path, text, code, hint):
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(CurvtoolError) as caught:
        resolve("eigs", {}, config_file=str(path), environment={})
    assert caught.value.code == code and caught.value.exit_status == 2
    assert hint in f"{caught.value.remedy} {caught.value.expected}"


@pytest.mark.parametrize(
    "environment",
    [{"CURVTOOL_SEED": "x"}, {"CURVTOOL_RTOL": "abc"}, {"CURVTOOL_TF32": "maybe"}, {"CURVTOOL_HVP": "fast"}],
)
def test_mistakes_in_variables(environment):
    with pytest.raises(CurvtoolError, match="CT001"):
        resolve("eigs", {}, environment=environment)


def test_missing_file():
    with pytest.raises(CurvtoolError, match="CT008"):
        resolve("eigs", {}, config_file="nowhere.toml", environment={})


def test_arguments_and_sizes():
    assert parse_arguments(["a=3", "b=[1,2]", "c=text", "d=true", 'e="3"']) == {
        "a": 3, "b": [1, 2], "c": "text", "d": True, "e": "3"
    }  # fmt: skip
    with pytest.raises(CurvtoolError):
        parse_arguments(["novalue"])
    for size in ("1e400", "nan", "-1GiB", "much"):
        with pytest.raises(CurvtoolError, match="CT001"):
            parse_bytes(size)
    assert [parse_bytes(t) for t in ("8GiB", "500MB", "1e3", "2 KiB", "7")] == [8 * 2**30, 500_000_000, 1000, 2048, 7]
