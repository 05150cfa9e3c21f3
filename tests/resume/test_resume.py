"""Runs that are stopped and go on: they end in the numbers of the uninterrupted one, and no state is half there."""

import json
import os
import random
from pathlib import Path

import pytest

from curvtool.config.resolve import resolve
from curvtool.errors import LoadError, StopRequested, UsageError
from curvtool.estimators.observer import Observer
from curvtool.resume import lock
from curvtool.resume.ledger import Keeping
from curvtool.session.run import run

PLAIN = {
    "checkpoint": "demo:digits", "dtype": "float64", "operations": "torch", "hvp": "fresh", "batch_size": "16",
    "num_samples": 40, "device": "cpu",
}  # fmt: skip
RUNS = {
    "eigs": ("eigs", {"k": 2, "max_basis": 8, "rtol": 1e-8, "per_layer": True}),
    "block": ("eigs", {"k": 2, "which": "be", "block_size": 2, "rtol": 1e-3}),
    "power": ("eigs", {"k": 2, "method": "power", "rtol": 1e-2}),
    "full check": ("eigs", {"k": 2, "check": "full", "operator": "ggn"}),
    "coarse": ("eigs", {"k": 2, "basis": "bfloat16", "rtol": 1e-2, "dtype": "float32"}),
    "trace": ("trace", {"rtol": 0.1, "per_layer": True, "max_passes": 60}),
    "deflated": ("trace", {"method": "deflated", "rank": 6, "max_passes": 30}),
    "sketched": ("trace", {"method": "hutch++", "rank": 4, "max_passes": 30}),
    "xtrace": ("trace", {"method": "xtrace", "max_passes": 70, "rtol": 1e-3}),
    "density": ("density", {"probes": 2, "steps": 6, "outliers": 2}),
    "trace, exactly": ("trace", {"method": "exact", "include": ["4.bias"], "max_passes": 100}),
    "density, exactly": ("density", {"method": "exact", "include": ["7.*"]}),
    "diagonal, exactly": ("diag", {"method": "exact", "include": ["4.bias"]}),
    "diagonal by rows": ("diag", {"method": "exact", "operator": "ggn", "batch_size": "3"}),
    "a trace by a space after a pilot": ("trace", {"rtol": 1e-3, "include": ["7.*"], "max_passes": 2000}),
    "diagonal": ("diag", {"rtol": 0.2, "max_passes": 20}),
    "norms": ("jacnorm", {"top": 3, "num_samples": 160, "batch_size": "8"}),
}


def same(found, wanted, where=""):
    """To the last bit but for the order of sums: how many groups run in one go is measured."""
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys(), where
        for key in wanted:
            same(found[key], wanted[key], f"{where}.{key}")
    elif isinstance(wanted, list):
        assert len(found) == len(wanted), where
        for number, (one, other) in enumerate(zip(found, wanted, strict=True)):
            same(one, other, f"{where}[{number}]")
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, rel=1e-9, abs=1e-12), where
    else:
        assert found == wanted, where


class Stopper:
    """Asks for an end at the n-th time that it is looked at; with n = 0 never."""

    def __init__(self, at=0):
        self.at, self.looks = at, 0

    def __call__(self):
        self.looks += 1
        return self.looks == self.at


def numbers(report):
    """All that a run found, without what it cost, or when."""

    def bare(value):
        if isinstance(value, dict):
            return {k: bare(v) for k, v in value.items() if k not in {"seconds", "peak_bytes"}}
        return [bare(item) for item in value] if isinstance(value, list) else value

    return bare(json.loads(report.model_dump_json())["analyses"])


def configured(name):
    kind, flags = RUNS[name]
    return resolve(kind, {**PLAIN, **flags}, environment={})


def stopped_at(config, folder, at):
    """Whether it was stopped, rather than through before."""
    try:
        outcome = run(config, keeping=Keeping(folder, go_on=True), was_asked=Stopper(at))
    except StopRequested:
        return True
    assert outcome.stopped is None or outcome.is_resumable
    return outcome.stopped is not None


@pytest.fixture(scope="module")
def uninterrupted():
    found = {}

    def of(name):
        if name not in found:
            outcome = run(configured(name), keeping=None)
            found[name] = numbers(outcome.report)
        return found[name]

    return of


@pytest.mark.parametrize("name", RUNS)
def test_stopped_again_and_again(name, uninterrupted, tmp_path):
    """At every stop a few products further; then it runs through, and a further start finds all of it there."""
    config, rng = configured(name), random.Random(name)
    stops = 0
    while stopped_at(config, tmp_path / "state", rng.choice((2, 12, 15, 18))) and stops < 100:
        stops += 1
    assert 1 <= stops < 100
    again = run(config, keeping=Keeping(tmp_path / "state", go_on=True))
    same(numbers(again.report), uninterrupted(name))


def test_a_cut_off_state_falls_back_to_the_one_before(uninterrupted, tmp_path):
    config, folder = configured("eigs"), tmp_path / "state"
    for at in (12, 14):
        assert stopped_at(config, folder, at)
    (last,) = sorted(folder.glob("[0-9]*"))[-1].glob("*.safetensors")
    last.write_bytes(last.read_bytes()[:-100])
    told = []
    observer = Observer()
    observer.notice = told.append
    outcome = run(config, observer, keeping=Keeping(folder, go_on=True))
    assert "the one before it" in told[-1] or any("the one before it" in text for text in told)
    same(numbers(outcome.report), uninterrupted("eigs"))


def saved(folder):
    return {path: path.read_bytes() for path in folder.glob("*/state.json")}


def test_both_states_cut_off(tmp_path):
    config, folder = configured("eigs"), tmp_path / "state"
    assert stopped_at(config, folder, 12)
    for manifest in folder.glob("*/state.json"):
        manifest.write_text("{")
    with pytest.raises(LoadError, match="CT062"):
        stopped_at(config, folder, 3)


def test_the_last_state_cut_off_each_time(uninterrupted, tmp_path):
    """What it went back to stays there until a whole one has come after it."""
    config, folder = configured("eigs"), tmp_path / "state"
    assert stopped_at(config, folder, 12)
    for at in (14, 15, 16, 17):
        assert stopped_at(config, folder, at)
        (last,) = sorted(folder.glob("[0-9]*"))[-1].glob("*.safetensors")
        last.write_bytes(last.read_bytes()[:-100])
    same(numbers(run(config, keeping=Keeping(folder, go_on=True)).report), uninterrupted("eigs"))


def test_two_processes_on_one_folder(tmp_path, monkeypatch):
    config, folder = configured("eigs"), tmp_path / "state"
    assert stopped_at(config, folder, 12)
    monkeypatch.setattr(lock, "PATIENCE_SECONDS", 1.0)
    told = []
    other = lock.Lock(folder / "lock")
    with pytest.raises(UsageError, match="CT066") as raised:
        lock.Lock(folder / "lock", told.append)
    assert f"process {os.getpid()} on" in raised.value.received and "waiting" in told[0]
    with pytest.raises(UsageError, match="CT066"):
        stopped_at(config, folder, 3)
    other.release()
    assert stopped_at(config, folder, 3)


def test_a_state_of_another_run(tmp_path):
    folder = tmp_path / "state"
    assert stopped_at(configured("eigs"), folder, 12)
    with pytest.raises(LoadError, match="CT063"):
        stopped_at(configured("power"), folder, 3)
    with pytest.raises(UsageError, match="CT007"):
        run(configured("eigs"), keeping=Keeping(folder))


def test_a_stop_while_it_catches_up_loses_nothing(uninterrupted, tmp_path):
    """The state that it goes on from knows more than the run that has just begun."""
    config, folder = configured("full check"), tmp_path / "state"
    assert stopped_at(config, folder, 20)
    before = saved(folder)
    assert stopped_at(config, folder, 1)
    assert saved(folder) == before
    outcome = run(config, keeping=Keeping(folder, go_on=True))
    same(numbers(outcome.report), uninterrupted("full check"))


def test_a_folder_that_takes_no_files(tmp_path):
    """Told before anything is computed."""
    folder = tmp_path / "state"
    folder.write_text("a file where the folder would be")
    with pytest.raises(UsageError, match="CT007"):
        run(configured("trace"), keeping=Keeping(Path(folder), go_on=True))


@pytest.mark.parametrize("budgets", [(2**28, 2**20), (2**20, 2**28)])
@pytest.mark.parametrize("name", ["density", "deflated", "eigs", "sketched"])
def test_on_a_machine_with_other_memory(name, budgets, tmp_path):
    """What memory decided at the start stays: vectors that go in step, the size of a space, the steps."""
    kind, flags = RUNS[name]
    before, after = (resolve(kind, {**PLAIN, **flags, "memory_budget": str(b)}, environment={}) for b in budgets)
    wanted = numbers(run(before).report)
    stops = 0
    while stopped_at(before, tmp_path / "state", 9) and stops < 3:
        stops += 1
        if not stopped_at(after, tmp_path / "state", 6):
            break
    assert stops
    same(numbers(run(after, keeping=Keeping(tmp_path / "state", go_on=True)).report), wanted)
