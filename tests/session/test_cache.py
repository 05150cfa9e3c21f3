"""What a run measured is found by the next run of the same, and by no other."""

import json
import os
import sys
import types

import numpy as np
import pytest
import torch

from curvtool import Problem
from curvtool.config.resolve import resolve
from curvtool.errors import DerivativeError
from curvtool.operators.witness import agree
from curvtool.resume import identity
from curvtool.session import cache, stage
from curvtool.session.cache import Cache, code_of
from curvtool.session.run import run

PLAIN = {"checkpoint": "demo:digits", "num_samples": 40, "batch_size": "16", "device": "cpu"}
NET = """\
import torch

def net():
    return torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    found = tmp_path / "cache"
    monkeypatch.setattr(cache, "folder", lambda: found)
    return found


@pytest.fixture
def preflights(monkeypatch):
    """How many were made."""
    made, preflight = [], stage.preflight_curvature

    def counted(*arguments, **options):
        made.append(1)
        return preflight(*arguments, **options)

    monkeypatch.setattr(stage, "preflight_curvature", counted)
    return made


def made(kind="eigs", **flags):
    return run(resolve(kind, {**PLAIN, **flags}, environment={})).report


def test_the_second_run_measures_nothing_anew(folder, preflights):
    first, second = made(), made()
    assert len(preflights) == 1 and not first.provenance.remembered
    told = second.provenance.remembered
    assert told[0] == "preflight of hessian" and told[1].startswith("product ways of hessian")
    assert first.problem.preflight == second.problem.preflight
    assert first.provenance.timings == second.provenance.timings != {}
    assert [e.value for e in first.analyses[0].eigenvalues] == [e.value for e in second.analyses[0].eigenvalues]
    assert made("trace", max_passes=4).provenance.remembered[0] == "preflight of hessian"  # of the same matrix


@pytest.mark.parametrize(
    "changed",
    [
        {"operator": "ggn"}, {"num_samples": 41}, {"dtype": "float64"}, {"reduction": "sum"}, {"batch_norm": "batch"},
        {"seed": 1}, {"hvp": "fresh"}, {"include": ["4.*"]},
    ],
    ids=str,
)  # fmt: skip
def test_a_run_of_something_else_measures_for_itself(changed, folder, preflights):
    made()
    assert not made(**changed).provenance.remembered and len(preflights) == 2


def test_without_a_cache(folder, preflights):
    for _ in range(2):
        assert not made(cache=False).provenance.remembered
    assert len(preflights) == 2 and not folder.exists()
    made()
    assert not made(cache=False).provenance.remembered


def test_a_check_is_a_check(folder, preflights):
    made()
    assert not made("check").provenance.remembered and len(preflights) == 2


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"measured": 1, "sha256": ""}', b"\xff\xfe", b'{"a": ' * 5000])
def test_what_is_damaged_is_measured_again(damage, folder, preflights):
    made()
    for path in folder.iterdir():
        path.write_bytes(damage)
    assert not made().provenance.remembered and len(preflights) == 2
    assert len(made().provenance.remembered) == 2  # and mended


def test_a_changed_number_does_not_pass(folder, preflights):
    made()
    for path in folder.iterdir():
        path.write_text(path.read_text().replace("noise_floor", "noise_flour"))
    made()
    assert len(preflights) == 2


def written(path, weights=0):
    (path / "own_net_of_cache.py").write_text(NET)
    sys.modules.pop("own_net_of_cache", None)
    torch.manual_seed(weights)
    net = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3))
    torch.save(net.state_dict(), path / "net.pt")
    rng = np.random.default_rng(0)
    np.savez(path / "data.npz", inputs=rng.random((20, 6), dtype=np.float32), targets=rng.integers(0, 3, 20))
    return {
        "checkpoint": str(path / "net.pt"), "factory": "own_net_of_cache:net", "source": str(path / "data.npz"),
        "num_samples": None,
    }  # fmt: skip


def test_other_weights_or_other_code(folder, preflights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    flags = written(tmp_path)
    made(**flags)
    assert made(**flags).provenance.remembered
    flags = written(tmp_path, weights=1)
    assert not made(**flags).provenance.remembered
    (tmp_path / "own_net_of_cache.py").write_text(NET + "# changed")
    assert not made(**flags).provenance.remembered
    assert len(preflights) == 3


UNSEEN = """\
import os, torch

class Act(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        context.save_for_backward(x)
        return x**2 / 2
    @staticmethod
    def backward(context, g):
        (x,) = context.saved_tensors
        return g * (x.detach() if os.environ.get("DETACHED_IN_TEST") else x)

class Bent(torch.nn.Module):
    def forward(self, x):
        return Act.apply(x)

def net():
    return torch.nn.Sequential(torch.nn.Linear(6, 4), Bent(), torch.nn.Linear(4, 3))
"""


def test_code_that_changes_unseen_is_seen_by_what_it_computes(folder, preflights, tmp_path, monkeypatch):
    """A variable takes part of the second derivative away: loss and gradient stay the same."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    flags = {**written(tmp_path), "factory": "unseen_net_of_cache:net"}
    (tmp_path / "unseen_net_of_cache.py").write_text(UNSEEN)
    made(**flags)
    assert made(**flags).provenance.remembered and len(preflights) == 1
    monkeypatch.setenv("DETACHED_IN_TEST", "1")
    with pytest.raises(DerivativeError) as refused:
        made(**flags)
    assert refused.value.code == "CT053" and len(preflights) == 2


def test_two_witnesses_agree_up_to_rounding():
    before = (0.5, 2.0, 0.1, -0.2, 0.05, 0.0)
    assert agree(before, before, 1e-7) and not agree(before, None, 1e-7)
    assert agree(before, tuple(each * (1 + 5e-6) for each in before), 1e-7)
    assert not agree(before, (0.5, 2.0, 0.1, -0.2, 0.051, 0.0), 1e-7)
    assert not agree(before, (0.5001, *before[1:]), 1e-7) and not agree(before, before[:3], 1e-7)
    nothing = (0.0,) * 6
    assert agree(nothing, nothing, 1e-7) and not agree(nothing, (0.0, 1e-30, *nothing[2:]), 1e-7)


def test_an_entry_under_another_name_does_not_pass(tmp_path):
    kept = Cache(tmp_path, {})
    kept.keep("a", 1.0)
    kept._entry_path("a").rename(kept._entry_path("b"))
    assert kept.find("b") is None


def test_files_that_options_name_and_weights_are_part_of_what_a_run_is(tmp_path):
    weights = tmp_path / "w.npy"
    np.save(weights, np.ones(3))
    config = resolve("eigs", {**PLAIN, "options": {"class_weights": str(weights)}}, environment={})
    before = identity.files_of([config])
    np.save(weights, np.zeros(3))
    assert before != identity.files_of([config])
    model = torch.nn.Linear(2, 3)
    data = torch.zeros(4, 2), torch.zeros(4, dtype=torch.long)
    first = identity.weights_of(Problem(model, data))
    torch.nn.init.zeros_(model.bias)
    assert first != identity.weights_of(Problem(model, data))
    odd = [torch.tensor(1.5), torch.zeros(0), torch.tensor([True, False]), torch.ones(2).to_sparse(),
           torch.ones(3).bfloat16(), torch.ones(2, dtype=torch.complex64).conj(), torch.arange(10_000)]  # fmt: skip
    for number, buffer in enumerate(odd):
        model.register_buffer(f"odd{number}", buffer)
    assert identity.weights_of(Problem(model, data)) == identity.weights_of(Problem(model, data))


def test_a_model_that_cannot_be_told_is_measured_anew(folder, monkeypatch):
    def broken(*_):
        raise KeyError("of a user's own")

    monkeypatch.setattr(cache, "code_of", broken)
    assert made().status == "complete" and not made().provenance.remembered


def test_norms_of_jacobians_look_for_nothing(folder, monkeypatch):
    monkeypatch.setattr(cache, "facts_of", lambda *_: pytest.fail("no loss takes part"))
    assert made("jacnorm", top=1).status == "complete"


def test_a_module_that_the_users_code_imports_counts(tmp_path):
    helper = tmp_path / "helper_of_cache.py"
    helper.write_text("")
    before = code_of([])
    module = types.ModuleType("helper_of_cache")
    module.__file__ = str(helper)
    sys.modules["helper_of_cache"] = module
    try:
        with_it = code_of([])
        helper.write_text("x = 1")
        assert len({before, with_it, code_of([])}) == 3
    finally:
        del sys.modules["helper_of_cache"]
    assert code_of([]) == before


def test_what_could_not_be_measured_is_not_kept(folder, monkeypatch):
    monkeypatch.setattr(
        stage,
        "preflight_curvature",
        lambda *_, **__: stage.Preflight(1, 0.0, None, 1e-7, {"finite_difference": "it failed"}),
    )
    made()
    assert not any("preflight of" in name for name in made().provenance.remembered)


def test_a_folder_that_cannot_be_written_to(tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setattr(cache, "folder", lambda: tmp_path / "cache" / "measured")
    assert made().status == made().status == "complete"

    def without_home():
        raise RuntimeError("no home")

    monkeypatch.setattr(cache, "folder", without_home)
    assert made().status == "complete"


def test_several_ranks_keep_nothing(folder):
    config = resolve("eigs", PLAIN, environment={})
    assert Cache.of([config], None, 2).path is None


def test_the_oldest_entries_go(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "MOST_ENTRIES", 3)
    kept = Cache(tmp_path, {})
    for number in range(6):
        kept.keep(str(number), number)
        os.utime(kept._entry_path(str(number)), (number, number))
        if number >= 1:
            assert kept.find("1") == 1  # what is used stays
    assert len(list(tmp_path.iterdir())) == 3 and kept.find("1") == 1 and kept.find("2") is None


def test_the_folder_is_the_users(monkeypatch, tmp_path):
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if sys.platform == "linux":
        assert cache.folder() == tmp_path / "curvtool" / "measured"


def test_an_entry_is_json(tmp_path):
    Cache(tmp_path, {}).keep("a", {"b": float("inf")})
    (path,) = tmp_path.iterdir()
    assert json.loads(path.read_text())["sha256"] and Cache(tmp_path, {}).find("a") == {"b": float("inf")}
    assert Cache(tmp_path, {"c": "d"}).find("a") is None
