"""`--batch-norm` from the command line: what is measured, what is told of it, and what is refused."""

import json
import sys

import numpy as np
import pytest
import torch
from ranks import Ranks
from safetensors.torch import load_file

NUM, SIZE = 22, 5  # the last batch has two samples
CODE = """
import torch

def net():
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Tanh(), torch.nn.Dropout(0.5), torch.nn.Linear(4, 3)
    )
    model[1].running_mean.uniform_(-1, 1)
    model[1].running_var.uniform_(0.5, 2)
    return model

def plain():
    return torch.nn.Linear(3, 3)

class Scaled(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = torch.nn.Embedding(5, 3, scale_grad_by_freq=True)
        self.head = torch.nn.Linear(3, 3)
    def forward(self, x):
        return self.head(torch.tanh(self.embed(x)).mean(1))
"""
RUNS = """\
[model]
checkpoint = "net.pt"
factory = "code_of_norms:net"
batch_norm = "batch"
[data]
source = "data.npz"
batch_size = 5
[compute]
dtype = "float64"
device = "cpu"
[[analysis]]
kind = "eigs"
k = 3
rtol = 1e-10
[[analysis]]
kind = "eigs"
k = 1
which = "sa"
operator = "ggn"
[[analysis]]
kind = "trace"
method = "exact"
[[analysis]]
kind = "trace"
rtol = 0.3
method = "hutchinson"
max_passes = 40
[[analysis]]
kind = "density"
method = "exact"
[[analysis]]
kind = "diag"
method = "exact"
operator = "fisher"
out = "diagonal.safetensors"
"""
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(NUM, 3)), RNG.integers(0, 3, NUM)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "code_of_norms", raising=False)
    (tmp_path / "code_of_norms.py").write_text(CODE)
    import code_of_norms  # type: ignore[import-not-found]

    torch.save(code_of_norms.net().state_dict(), "net.pt")
    torch.save(code_of_norms.plain().state_dict(), "plain.pt")
    torch.save(code_of_norms.Scaled().state_dict(), "scaled.pt")
    np.savez("data.npz", inputs=X, targets=Y)
    np.savez("tokens.npz", inputs=RNG.integers(0, 5, (NUM, 3)), targets=Y)
    (tmp_path / "runs.toml").write_text(RUNS)
    return tmp_path


def dense(size=SIZE):
    """Hessian and Gauss-Newton matrix by torch's own operations in training mode, without dropout."""
    import code_of_norms

    model = code_of_norms.net().double().train()
    model[3].eval()
    z, parameters = torch.cat([model(x) for x in torch.tensor(X).split(size)]), list(model.parameters())
    loss = torch.nn.functional.cross_entropy(z, torch.tensor(Y))
    gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, parameters, create_graph=True)])

    def rows(flat):
        found = [torch.autograd.grad(each, parameters, retain_graph=True, materialize_grads=True) for each in flat]
        return torch.stack([torch.cat([part.reshape(-1) for part in row]) for row in found])

    jacobian, p = rows(z.reshape(-1)).view(NUM, 3, -1), z.detach().softmax(1)
    middle = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    return float(loss.detach()), rows(gradient), torch.einsum("ncp,ncd,ndq->pq", jacobian, middle, jacobian) / NUM


def check(report):
    """Every number of `RUNS` against the dense matrices."""
    loss, hessian, gauss_newton = dense()
    values = torch.linalg.eigvalsh(hessian).tolist()
    scale = max(map(abs, values))
    problem, (top, low, exact, probes, density, _) = report["problem"], report["analyses"]
    assert problem["batch_norm"] == "batch" and problem["statistics_batch"] == SIZE
    assert problem["loss_value"] == pytest.approx(loss, rel=1e-12)
    assert [each["value"] for each in top["eigenvalues"]] == pytest.approx(values[:-4:-1], abs=1e-8 * scale)
    smallest = float(torch.linalg.eigvalsh(gauss_newton)[0])
    assert low["eigenvalues"][0]["value"] == pytest.approx(smallest, abs=1e-6 * scale)
    assert exact["value"] == pytest.approx(sum(values), abs=1e-8 * scale)
    assert abs(probes["value"] - sum(values)) <= 6 * probes["stderr"]
    assert density["trace"] == pytest.approx(sum(values), abs=1e-8 * scale)
    assert density["below_zero"]["value"] == pytest.approx(sum(v < -1e-8 for v in values) / len(values), abs=0.04)
    entries = torch.cat([t.reshape(-1) for name, t in ordered(load_file("diagonal.safetensors"))])
    assert torch.allclose(entries.double(), gauss_newton.diagonal(), rtol=1e-8, atol=1e-10)
    assert "CT238" not in {warning["code"] for warning in report["warnings"]}
    assert report["provenance"]["config"]["model"]["batch_norm"] == "batch"
    assert report["provenance"]["batch_size"] == SIZE


def ordered(parts):
    names = ["0.weight", "0.bias", "1.weight", "1.bias", "4.weight", "4.bias"]
    return [(name, parts[name]) for name in names]


def test_every_analysis_against_the_dense_matrix(folder, run):
    status, out, err = run("run", "runs.toml", "--json", "r.json")
    assert status == 0, err
    assert "BatchNorm in batches of 5" in out
    check(json.loads((folder / "r.json").read_text()))


def test_two_ranks(folder):
    with Ranks(2, "run", "runs.toml", "--json", "r.json", folder=folder) as ranks:
        statuses, _, said = ranks.ended()
    assert statuses == [0, 0], said
    check(json.loads((folder / "r.json").read_text()))


WORDS = ("net.pt", "--factory", "code_of_norms:net", "--data", "data.npz")


def test_evaluation_mode_is_told(folder, run):
    status, _, err = run("eigs", *WORDS, "-k", "1", "--json", "a.json")
    assert status == 0 and err.count("CT238") == 1 and "--batch-norm batch --batch-size N" in err
    report = json.loads((folder / "a.json").read_text())
    assert [w["code"] for w in report["warnings"] if w["code"] == "CT238"] == ["CT238"]
    assert report["problem"]["batch_norm"] == "eval" and report["problem"]["statistics_batch"] is None
    status, _, err = run("jacnorm", *WORDS)
    assert status == 0 and "CT238" not in err
    plain = ("plain.pt", "--factory", "code_of_norms:plain", "--data", "data.npz")
    status, _, err = run("eigs", *plain, "-k", "1", "--json", "p.json")
    assert status == 0 and "CT238" not in err
    assert json.loads((folder / "p.json").read_text())["problem"]["batch_norm"] is None


def test_other_statistics_are_not_compared(folder, run):
    for name, words in {
        "eval": (), "five": ("--batch-norm", "batch", "--batch-size", "5"),
        "again": ("--batch-norm", "batch", "--batch-size", "5"), "all": ("--batch-norm", "batch", "--batch-size", "22"),
    }.items():  # fmt: skip
        assert run("eigs", *WORDS, *words, "-k", "1", "--json", f"{name}.json")[0] == 0
    assert run("compare", "five.json", "again.json")[0] == 0
    for one, other in (("eval", "five"), ("five", "all")):
        status, _, err = run("compare", f"{one}.json", f"{other}.json")
        assert status != 0 and "CT072" in err and "BatchNorm in" in err


@pytest.mark.parametrize(
    ("command", "words", "code"),
    [
        ("eigs", (), "CT003"),
        ("eigs", ("--batch-size", "6", "--operator", "empirical-fisher"), "CT003"),
        ("jacnorm", ("--batch-size", "6"), "CT003"),
        ("trace", ("--batch-size", "5", "--probe-group", "8"), "CT003"),
        ("eigs", ("--batch-size", "7"), "CT024"),  # the last batch has one sample
    ],
)
def test_refusals(folder, run, command, words, code):
    status, _, err = run(command, *WORDS, "--batch-norm", "batch", *words)
    assert status in (2, 3) and code in err and "try:" in err


def test_dry_run_check_and_verify(folder, run):
    words = (*WORDS, "--batch-norm", "batch", "--batch-size", "5", "--dtype", "float64")
    status, out, _ = run("eigs", *words, "--dry-run")
    assert status == 0 and "batches of 5" in out
    assert run("check", *words)[0] == 0
    status, _, err = run("verify", *words, "--tools", "dense", "-k", "1", "--strict")
    assert status == 0 and "CT212" not in err


def test_rows_of_a_tracked_run(folder, run):
    words = ("net.pt", *WORDS[1:], "--batch-norm", "batch", "-k", "1", "-o", "rows.jsonl")
    assert run("track", *words, "--batch-size", "5")[0] == 0
    assert run("track", *words, "--batch-size", "5")[0] == 0
    status, _, err = run("track", *words, "--batch-size", "11")
    assert status == 3 and "CT063" in err and "batch_size" in err


def test_scaling_by_frequency_is_told(folder, run):
    words = ("scaled.pt", "--factory", "code_of_norms:Scaled", "--data", "tokens.npz", "-k", "1", "--json", "s.json")
    status, _, err = run("eigs", *words)
    assert status == 0 and err.count("CT239") == 1
    report = json.loads((folder / "s.json").read_text())
    assert [w["code"] for w in report["warnings"]].count("CT239") == 1
