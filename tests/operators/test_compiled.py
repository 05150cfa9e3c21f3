"""Compiled products: what is traced equals the oracle, and is taken only where it is right and faster."""

import shutil
import time

import pytest
import torch
from cases import CASES
from oracles import dense_hessian, relative
from torch import nn

from curvtool import EmpiricalFisher, GaussNewton, Hessian, Problem
from curvtool.errors import DerivativeError
from curvtool.operators import compiled


@pytest.fixture
def uncompiled(monkeypatch):
    """The traced operations are run one by one: the trace is what these tests are about."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_trace_equals_the_dense_hessian(case, uncompiled):
    operator = Hessian(case.problem(), batch_size=case.batch_size, mode="compiled")
    assert relative(operator.materialize(), dense_hessian(case)) < 1e-10
    assert operator.execution.describe() == "compiled" and not operator.execution.left_out


@pytest.mark.parametrize("kind", [GaussNewton, EmpiricalFisher])
@pytest.mark.parametrize("case", [case for case in CASES if isinstance(case.loss, str)], ids=str)
def test_the_trace_equals_the_other_matrices(case, kind, uncompiled):
    operator = kind(case.problem(), batch_size=case.batch_size, mode="compiled")
    usual = kind(case.problem(), batch_size=case.batch_size, mode="fresh", form="torch")
    assert relative(operator.materialize(), usual.materialize()) < 1e-10
    assert operator.execution.describe() == "compiled"


def small(model=None, num=24):
    torch.manual_seed(0)
    model = model or nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    return Problem(model, (torch.randn(num, 4), torch.randint(0, 3, (num,))))


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_truly_compiled_products():
    operator = Hessian(small(), batch_size=8, mode="compiled")
    assert relative(operator.materialize(), Hessian(small(), mode="fresh").materialize()) < 1e-5
    assert set(operator.execution.timings) >= {"usual, a full batch", "compiled, a full batch"}


def one_by_one(operator):
    """The dense matrix by single products, which are what is compiled: several at a time share a graph."""
    return torch.stack([operator @ unit for unit in torch.eye(operator.space.dim, dtype=operator.space.dtype)])


class Branching(nn.Module):
    """Its path hangs on the samples."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(x) if float(x.sum()) > 0 else self.layer(-x)


def test_a_path_that_hangs_on_the_samples_is_not_compiled(monkeypatch):
    with pytest.raises(DerivativeError) as caught:
        Hessian(small(Branching()), batch_size=8, mode="compiled") @ torch.ones(15)
    assert caught.value.code == "CT055" and "--hvp auto" in str(caught.value)
    operator = eager(monkeypatch, small(Branching()))
    assert relative(one_by_one(operator), Hessian(small(Branching())).materialize()) < 1e-5
    assert "compiled" in operator.execution.left_out and operator.execution.describe() != "compiled"


def eager(monkeypatch, problem, mode="auto"):
    """An operator that keeps nothing, and to which a compilation seems worth it at once."""
    monkeypatch.setattr(compiled, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(compiled, "SECONDS_PER_NODE", 0.0)
    return Hessian(problem, batch_size=8, memory_budget=0, mode=mode)


def slowly(function, **_):
    def run(*args):
        time.sleep(0.05)
        return function(*args)

    return run


def quickly(function, **_):
    """Faster than any product: what it once found is found again for the same samples and vector."""
    found = {}

    def run(tensors, vector):
        key = tuple(tuple(t.flatten().tolist()) for t in (tensors.batch[0], *vector))
        if key not in found:
            found[key] = function(tensors, vector)
        return found[key]

    return run


def wrongly(function, **_):
    return lambda *args: [1.01 * part for part in function(*args)]


@pytest.mark.parametrize(("how", "taken"), [(quickly, True), (slowly, False), (wrongly, False)])
def test_a_compiled_product_is_taken_where_it_is_right_and_faster(how, taken, monkeypatch):
    monkeypatch.setattr(torch, "compile", how)
    operator = eager(monkeypatch, small())
    usual = Hessian(small(), batch_size=8, mode="fresh", form="torch")
    assert relative(one_by_one(operator), usual.materialize()) < 1e-5
    assert (operator.execution.describe() == "compiled") == taken
    assert ("compiled" in operator.execution.left_out) == (not taken)


@pytest.mark.parametrize("mode", ["fresh", "forward"])
def test_what_was_asked_for_is_not_compiled(mode, monkeypatch):
    operator = eager(monkeypatch, small(), mode=mode)
    monkeypatch.setattr(torch, "compile", lambda *_, **__: pytest.fail("compiled"))
    one_by_one(operator)
    assert operator.execution.describe() == mode


def test_a_short_run_compiles_nothing(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda *_, **__: pytest.fail("compiled"))
    operator = Hessian(small(), batch_size=8, memory_budget=0)
    one_by_one(operator)
    assert "compiled" not in operator.execution.left_out


def test_nothing_is_compiled_after_memory_ran_out(uncompiled):
    operator = Hessian(small(), batch_size=8, mode="compiled")
    vector = torch.ones(operator.space.dim)
    before = operator @ vector
    operator.execution.shrink()
    assert relative(operator @ vector, before) < 1e-5
    assert "memory" in operator.execution.left_out["compiled"]
