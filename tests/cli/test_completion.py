"""What Tab offers, through the shell's own interface, and did-you-mean for values."""

import numpy as np
import pytest
import torch

from curvtool.problem.losses.named import LOSS_NAMES
from curvtool.vocabulary import LOSSES


@pytest.fixture
def offered(run, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    net = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Linear(5, 3))
    torch.save({f"module.body.{name}": value for name, value in net.state_dict().items()}, "net.pt")
    np.savez("data.npz", images=np.zeros((3, 4)), labels=np.zeros(3, int))
    (tmp_path / "nets.py").write_text("import torch\nclass Net(torch.nn.Module): ...\nclass Other: ...\n")

    def call(*words):
        monkeypatch.setenv("_CURVTOOL_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", " ".join(["curvtool", *words]))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        status, out, err = run()
        assert status == 0 and err == ""
        return out.split()

    return call


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["tra"], {"trace", "track"}),
        (["eigs", "--lo"], {"--loss"}),
        (["eigs", "--loss", "c"], {"cross-entropy", "causal-lm"}),
        (["eigs", "--which", "l"], {"la", "lm"}),
        (["eigs", "--format", "j"], {"json"}),
        (["render", "--format", "c"], {"csv"}),
        (["explain", "CT02"], {f"CT02{i}" for i in range(10)}),
        (["eigs", "demo"], {"demo:digits"}),
        (["eigs", "--factory", "n"], {"nets:Net"}),
        (["eigs", "net.pt", "--params", "body.0"], {"body.0.*", "body.0.weight", "body.0.bias"}),
        (["eigs", "net.pt", "--submodule", "b"], {"body", "body.0", "body.1"}),
        (["eigs", "net.pt", "--data", "data.npz", "--target-key", "l"], {"labels"}),
        (["eigs", "nowhere.pt", "--params", "body.0"], set()),
        (["eigs", "nets.py", "--params", "body.0"], set()),
    ],
)
def test_what_is_offered(offered, words, expected):
    assert set(offered(*words)) == expected


def test_by_the_project_file(offered, tmp_path):
    (tmp_path / "curvtool.toml").write_text('[model]\ncheckpoint = "net.pt"\n[data]\nsource = "data.npz"\n')
    assert "body.1.bias" in offered("trace", "--exclude", "body.1")
    assert offered("trace", "--input-key", "i") == ["images"]
    (tmp_path / "curvtool.toml").write_text("[model")
    assert offered("trace", "--exclude", "body.1") == []


def test_the_losses_are_all_of_them():
    assert LOSSES == LOSS_NAMES


@pytest.mark.parametrize(
    ("flag", "value", "told"),
    [
        ("--which", "ls", "one of la, sa, lm, be"),
        ("--hvp", "keptt", "did you mean 'kept'?"),
        ("--operator", "fischer", "did you mean 'fisher'"),
        ("--format", "tabel", "did you mean 'table'?"),
        ("--color", "allways", "did you mean 'always'?"),
        ("--dtype", "float16", "did you mean"),
        ("--reduction", "avg", "--reduction mean"),
        ("--which", "smallest", "--which sa"),
        ("--seed", "99999999999999999999", "2^63"),
    ],
)
def test_a_value_that_does_not_exist(run, flag, value, told):
    status, _, err = run("eigs", flag, value)
    assert status == 2 and "CT001" in err and flag in err and told in err


def test_a_value_of_the_project_file(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "curvtool.toml").write_text('[[analysis]]\nkind = "eigs"\nwhich = "sma"\n')
    status, _, err = run("eigs")
    assert status == 2 and "--which" in err and "la, sa, lm, be" in err
