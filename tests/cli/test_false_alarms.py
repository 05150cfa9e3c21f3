"""What is right is not refused, what was not checked is said, and a NaN agrees with nothing."""

import json
import sys

import pytest
import torch
from torch import nn

MODELS = """
import torch
from torch import nn

G = torch.Generator().manual_seed(0)
X = torch.randn(60, 3, generator=G)


class Saddle(nn.Module):  # bilinear: the diagonal is zero, the matrix is not
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.inner, self.outer = nn.Linear(3, 2, bias=False), nn.Linear(2, 1, bias=False)

    def forward(self, x):
        return self.outer(self.inner(x))[:, 0]


class Flat(nn.Linear):
    def forward(self, x):
        return super().forward(x)[:, 0]


class Centres(nn.Module):  # a norm at zero: two centres are samples
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.centres = nn.Parameter(X[:2].double().clone())
        self.out = nn.Linear(2, 1).double()

    def forward(self, x):
        distance = torch.linalg.norm(x[:, None] - self.centres[None], dim=-1)
        return self.out(torch.exp(-distance**2 / 2))


class Quantized(nn.Linear):  # weights on a grid of float32 numbers, whose gradient passes straight through
    def forward(self, x):
        weight = torch.fake_quantize_per_tensor_affine(self.weight, 0.02, 0, -128, 127)
        return torch.tanh(nn.functional.linear(x, weight))


class Fixed(nn.Linear):
    def forward(self, x):
        if x.dtype != torch.float32:
            raise RuntimeError("expected scalar type Float")
        return torch.tanh(super().forward(x))


def saddle(): return Saddle()
def flat(): return Flat(3, 1)
def centres(): return Centres()
def quantized(): torch.manual_seed(0); return Quantized(3, 2)
def fixed(): torch.manual_seed(0); return Fixed(3, 2)
def value(output, target): return output
def zeros(): return X, torch.zeros(60)
def classes(): return X, (X[:, 0] > 0).long()
def sums(): return X.double(), torch.sin(X.double().sum(1, keepdim=True))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("odd_models", None)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "odd_models.py").write_text(MODELS)
    scope = {}
    exec(MODELS, scope)

    def words(name, data, *more):
        torch.save(scope[name]().state_dict(), f"{name}.pt")
        return [f"{name}.pt", "--factory", f"odd_models:{name}", "--data", f"odd_models:{data}", *more]

    return words, scope


def codes(out):
    return {warning["code"] for warning in json.loads(out)["warnings"]}


@pytest.mark.parametrize("command", [["trace", "--max-passes", "4"], ["trace", "--method", "exact"], ["diag"]])
def test_a_trace_or_a_diagonal_of_zero_does_not_say_that_products_are_zero(folder, run, command):
    words, _ = folder
    command = [*command, "--operator", "hessian", "--json", "-"]
    _, out, _ = run(command[0], *words("saddle", "zeros", "--loss", "odd_models:value"), *command[1:])
    assert "CT207" not in codes(out)
    _, out, _ = run(command[0], *words("flat", "zeros", "--loss", "odd_models:value"), *command[1:])
    assert "CT207" in codes(out)


def dense(model, x, y):
    parameters = list(model.parameters())
    loss = nn.functional.mse_loss(model(x), y)
    gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, parameters, create_graph=True)])
    rows = [torch.autograd.grad(entry, parameters, retain_graph=True) for entry in gradient]
    return torch.stack([torch.cat([part.reshape(-1) for part in row]) for row in rows])


def test_a_norm_at_zero_is_refused_and_right_by_differences(folder, run):
    words, scope = folder
    named = words("centres", "sums", "--loss", "mse")
    for command in ("check", "eigs"):
        status, _, err = run(command, *named)
        assert status == 5 and "CT054" in err and "--hvp finite-difference" in err

    class Smooth(scope["Centres"]):
        def forward(self, x):
            return self.out(torch.exp(-(x[:, None] - self.centres[None]).square().sum(-1) / 2))

    true = torch.linalg.eigvalsh(dense(Smooth(), *scope["sums"]()))[-1]
    status, out, _ = run("eigs", *named, "-k", "1", "--hvp", "finite-difference", "--json", "-")
    assert status == 0
    assert abs(json.loads(out)["analyses"][0]["eigenvalues"][0]["value"] / float(true) - 1) < 1e-6


def test_what_could_not_be_checked_is_said(folder, run):
    words, _ = folder
    status, out, err = run("eigs", *words("quantized", "classes"), "-k", "1", "--json", "r.json")
    assert status in {0, 4} and "CT243" in err
    _, out, err = run("eigs", *words("fixed", "classes"), "-k", "1", "--json", "-")
    assert "CT244" in codes(out) and "CT243" not in codes(out)
    assert json.loads(out)["problem"]["preflight"]["noise_floor"] > 1e-9
