"""Several analyses of one matrix, stopped again and again; replays that take another way; what a state belongs to."""

import random
import shutil
from pathlib import Path

import pytest
import torch
from resume.test_resume import PLAIN, RUNS, Stopper, configured, numbers, same, saved, stopped_at

from curvtool.config.resolve import resolve
from curvtool.errors import LoadError, StopRequested
from curvtool.estimators.observer import Observer
from curvtool.resume.folder import StateFolder
from curvtool.resume.ledger import Keeping
from curvtool.session.load import load
from curvtool.session.run import run, run_all

SEVERAL = {
    "eigs, density": [("eigs", {"k": 2}), ("density", {"probes": 2, "steps": 12, "outliers": 3})],
    "eigs, trace, diag": [("eigs", {"k": 2}), ("trace", {"rtol": 0.1, "max_passes": 30}), ("diag", {"max_passes": 10})],
    "one twice": [("eigs", {"k": 1}), ("eigs", {"k": 2, "which": "be", "rtol": 1e-2}), ("trace", {"max_passes": 20})],
    "two matrices": [("eigs", {"k": 1, "operator": "ggn"}), ("eigs", {"k": 1}), ("trace", {"operator": "ggn"})],
    "norms first": [("jacnorm", {"top": 2}), ("trace", {"max_passes": 20})],
}


def several(name):
    return [resolve(kind, {**PLAIN, **flags}, environment={}) for kind, flags in SEVERAL[name]]


def was_stopped(configs, folder, at):
    try:
        outcome = run_all(configs, keeping=Keeping(folder, go_on=True), was_asked=Stopper(at))
    except StopRequested:
        return True
    assert outcome.stopped is None or outcome.is_resumable
    return outcome.stopped is not None


@pytest.mark.parametrize("name", SEVERAL)
def test_several_analyses_are_stopped_again_and_again(name, tmp_path):
    """Each start gets further, however often the one before was stopped within the second or third analysis."""
    configs, rng = several(name), random.Random(name)
    wanted, folder = numbers(run_all(configs).report), tmp_path / "state"
    stops, states = 0, set()
    while was_stopped(configs, folder, rng.choice((7, 9, 12, 20))) and stops < 60:
        stops += 1
        states.add(tuple(saved(folder).values()))
    assert 1 <= stops < 60 and len(states) >= stops / 2  # a stop while it catches up saves nothing
    same(numbers(run_all(configs, keeping=Keeping(folder, go_on=True)).report), wanted)


def test_a_replay_that_takes_another_way_is_an_error(tmp_path, monkeypatch):
    """An entry that nobody asks for, or of another matrix, would be lost in silence."""
    folder = tmp_path / "state"
    assert stopped_at(configured("eigs"), folder, 12)
    before = saved(folder)
    read = StateFolder.load

    def renamed(self):
        return {key.replace("basis", "other"): value for key, value in read(self).items()}

    monkeypatch.setattr(StateFolder, "load", renamed)
    with pytest.raises(LoadError, match="CT063") as raised:
        run(configured("eigs"), keeping=Keeping(folder, go_on=True))
    assert "other" in raised.value.expected and saved(folder) == before
    value = StateFolder.value

    def of_another(self, tree, space):
        told = value(self, tree, space)
        return {**told, "matrix": "another with 3 rows"} if "matrix" in told else told

    monkeypatch.setattr(StateFolder, "load", read)
    monkeypatch.setattr(StateFolder, "value", of_another)
    with pytest.raises(LoadError, match="CT063") as raised:
        run(configured("eigs"), keeping=Keeping(folder, go_on=True))
    assert "another with 3 rows" in raised.value.expected and "hessian" in raised.value.received.lower()


NET = """\
import torch
def net():
    return torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3))
def loss(output, target):
    return torch.nn.functional.cross_entropy(output, target, reduction="none")
def data():
    g = torch.Generator().manual_seed(1)
    return torch.randn(30, 4, generator=g), torch.arange(30) % 3
"""


@pytest.fixture
def own_code(tmp_path, monkeypatch):
    """A model and a loss of one's own: the settings of a run of theirs, which is stopped once."""
    import importlib
    import sys

    monkeypatch.chdir(tmp_path)
    for name in ("resumed_net", "resumed_loss"):
        Path(f"{name}.py").write_text(NET)
    importlib.invalidate_caches()
    torch.manual_seed(0)
    made = {}
    exec(NET, made)
    torch.save(made["net"]().state_dict(), "net.pt")
    flags = {**PLAIN, "checkpoint": "net.pt", "factory": "resumed_net:net", "name": "resumed_loss:loss",
             "source": "resumed_net:data", "num_samples": None, "k": 2, "rtol": 1e-6}  # fmt: skip

    def config(**changed):
        for name in ("resumed_net", "resumed_loss"):
            sys.modules.pop(name, None)
        return resolve("eigs", {**flags, **changed}, environment={})

    yield config
    for name in ("resumed_net", "resumed_loss"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(("file", "flag"), [("resumed_net.py", "--factory"), ("resumed_loss.py", "--loss")])
def test_code_that_changed_is_refused_by_its_name(file, flag, own_code):
    assert stopped_at(own_code(), Path("state"), 8)
    assert stopped_at(own_code(), Path("state"), 6)
    Path(file).write_text(NET + "\n# changed\n")
    with pytest.raises(LoadError, match="CT063") as raised:
        run(own_code(), keeping=Keeping(Path("state"), go_on=True))
    told = f"{raised.value.expected} {raised.value.received}"
    assert flag in told and file in told


def test_what_changes_a_number_is_part_of_the_state(own_code):
    assert stopped_at(own_code(), Path("state"), 8)
    for changed in ({"hvp": "forward"}, {"operations": "rewritten"}, {"dtype": "float32"}, {"seed": 3}, {"rtol": 1e-5}):
        with pytest.raises(LoadError, match="CT063"):
            run(own_code(**changed), keeping=Keeping(Path("state"), go_on=True))
    run(own_code(batch_size="7"), keeping=Keeping(Path("state"), go_on=True))  # of another machine


def test_vectors_that_changed_are_refused(own_code):
    for number, name in enumerate(("one", "two")):
        run(own_code(vectors=f"{name}.safetensors", seed=number, k=1, rtol=0.3))
    shutil.copy("one.safetensors", "start.safetensors")
    given = {"deflate": "start.safetensors"}
    assert stopped_at(own_code(**given), Path("state"), 8)
    shutil.copy("two.safetensors", "start.safetensors")
    with pytest.raises(LoadError, match="CT063") as raised:
        run(own_code(**given), keeping=Keeping(Path("state"), go_on=True))
    assert "--deflate" in f"{raised.value.expected} {raised.value.received}"


def test_a_folder_that_was_deleted_meanwhile_is_locked_again(tmp_path):
    """Two processes may write to it otherwise, each with a lock on a file of its own."""
    from curvtool.cluster.solo import Solo
    from curvtool.resume.lock import Lock

    path = tmp_path / "state"
    folder = StateFolder(path, Solo(), {})
    folder.open()
    assert folder.save({}) is None
    shutil.rmtree(path)
    assert folder.save({}) is None and (path / "lock").exists()
    with pytest.raises(Exception, match="CT066"):
        Lock(path / "lock", patience=0.0)
    shutil.rmtree(path)
    path.mkdir()
    other = Lock(path / "lock")
    assert "another process" in folder.save({})
    other.release()
    assert folder.save({}) is None
    folder.close()


def test_a_state_that_cannot_be_saved_is_an_alarm(tmp_path, monkeypatch):
    told, config = [], configured("eigs")
    observer = Observer()
    observer.alarm = told.append
    monkeypatch.setattr(StateFolder, "save", lambda *_: "no room")
    run(config, observer, keeping=Keeping(tmp_path / "state", seconds=0.0))
    assert told and "no room" in told[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SEVERAL, "eigs", "trace", "density", "diagonal", "norms", "full check", "xtrace"])
def test_fifty_random_interruptions(name, tmp_path):
    configs = several(name) if name in SEVERAL else [configured(name)]
    wanted, rng, folder = numbers(run_all(configs).report), random.Random(name), tmp_path / "state"
    stops = 0
    while stops < 50:
        if was_stopped(configs, folder, rng.randint(1, 30)):
            stops += 1
        else:
            shutil.rmtree(folder)
    same(numbers(run_all(configs, keeping=Keeping(folder, go_on=True)).report), wanted)


@pytest.mark.parametrize(
    "name", ["power", *(pytest.param(name, marks=pytest.mark.slow) for name in RUNS if name != "power")]
)
def test_a_stop_at_any_look(name, tmp_path):
    """At the last product before a decision too."""
    config = configured(name)
    loaded = load(config)
    wanted, at = numbers(run(config, loaded=loaded).report), 0
    while True:
        at, folder = at + 1, tmp_path / str(at)
        try:
            keeping = Keeping(folder, go_on=True)
            if run(config, keeping=keeping, was_asked=Stopper(at), loaded=loaded).stopped is None:
                break
        except StopRequested:
            pass
        same(numbers(run(config, keeping=Keeping(folder, go_on=True), loaded=loaded).report), wanted)
    assert at > 10
