"""What a file is, and that nothing in it runs."""

import argparse
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn

from curvtool import CurvtoolError
from curvtool.errors import LoadError
from curvtool.problem.checkpoints import sniff
from curvtool.problem.checkpoints.fit import fit
from curvtool.problem.checkpoints.load import load_model
from curvtool.problem.checkpoints.torch_files import caution
from curvtool.setup.inspection import inspect_file


class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.layer = nn.Linear(3, width)
        self.norm = nn.BatchNorm1d(width)


class Hostile:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def loaded(path, **options):
    model, _ = load_model(path, Net(), **options)
    return model.state_dict()


def same(left, right):
    return all(torch.equal(left[name], right[name]) for name in right if not name.endswith("tracked"))


WRAPPINGS = {
    "plain": lambda s: s,
    "data-parallel": lambda s: {f"module.{k}": v for k, v in s.items()},
    "compiled": lambda s: {f"_orig_mod.{k}": v for k, v in s.items()},
    "both": lambda s: {f"module._orig_mod.{k}": v for k, v in s.items()},
    "training": lambda s: {"state_dict": s, "epoch": 3, "optimizer": {"state": {}, "lr": 0.1}},
    "model-key": lambda s: {"model": {f"module.{k}": v for k, v in s.items()}, "args": argparse.Namespace(lr=0.1)},
    "numpy-scalars": lambda s: {"model_state_dict": s, "best": np.float64(0.5), "count": np.int64(3)},
    "lightning": lambda s: {"state_dict": {**{f"model.{k}": v for k, v in s.items()}, "metric.n": torch.ones(1)}},
    "other-prefix": lambda s: {f"net.{k}": v for k, v in s.items()},
    "other-prefix-and-metrics": lambda s: {**{f"net.{k}": v for k, v in s.items()}, "metric.n": torch.ones(1)},
    "compiled-inside": lambda s: {k.replace("layer.", "layer._orig_mod."): v for k, v in s.items()},
    "fsdp": lambda s: {f"_fsdp_wrapped_module.{k}": v for k, v in s.items()},
    "without-counters": lambda s: {k: v for k, v in s.items() if not k.endswith("tracked")},
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_torch_files(tmp_path, wrapping, legacy):
    state = Net().state_dict()
    path = tmp_path / "net.pt"
    torch.save(WRAPPINGS[wrapping](state), path, _use_new_zipfile_serialization=not legacy)
    assert sniff.sniff(path).format == ("torch-legacy" if legacy else "torch-zip")
    assert same(loaded(path), state)


def test_safetensors(tmp_path):
    state = Net().state_dict()
    save_file({f"module.{k}": v for k, v in state.items()}, tmp_path / "net.safetensors")
    assert same(loaded(tmp_path / "net.safetensors"), state)


def test_averaged_weights(tmp_path):
    plain, averaged = Net().state_dict(), Net().state_dict()
    torch.save({"state_dict": plain, "state_dict_ema": averaged}, tmp_path / "both.pt")
    assert same(loaded(tmp_path / "both.pt"), plain)
    assert same(loaded(tmp_path / "both.pt", weights="ema"), averaged)
    torch.save({"state_dict": plain}, tmp_path / "plain.pt")
    with pytest.raises(CurvtoolError, match="CT017"):
        loaded(tmp_path / "plain.pt", weights="ema")


@pytest.mark.parametrize("legacy", [False, True])
def test_hostile_pickle_never_runs(tmp_path, legacy):
    path, trace = tmp_path / "net.pt", tmp_path / "ran"
    torch.save(
        {"state_dict": Net().state_dict(), "extra": Hostile(trace)}, path, _use_new_zipfile_serialization=not legacy
    )
    with pytest.raises(CurvtoolError) as caught:
        loaded(path)
    assert caught.value.code == "CT015" and "--trust" in caught.value.remedy
    assert any("open" in name for name in inspect_file(path).would_import)
    assert not trace.exists()


def test_bare_hostile_pickle_never_runs(tmp_path):
    path, trace = tmp_path / "net.pkl", tmp_path / "ran"
    path.write_bytes(pickle.dumps(Hostile(trace)))
    with pytest.raises(CurvtoolError):
        loaded(path)
    inspect_file(path)
    assert not trace.exists()


def test_whole_module_needs_trust(tmp_path):
    path = tmp_path / "net.pt"
    torch.save(Net(), path)
    with pytest.raises(CurvtoolError, match="CT015"):
        loaded(path)
    model, _ = load_model(path, None, trust=True)
    assert isinstance(model, Net)
    assert any("Net" in name for name in inspect_file(path).would_import)


def test_torchscript_is_told_not_run(tmp_path):
    with torch.no_grad():
        torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)).save(tmp_path / "net.pt")
    assert sniff.sniff(tmp_path / "net.pt").format == "torchscript"
    with pytest.raises(CurvtoolError, match="CT015"):
        loaded(tmp_path / "net.pt")


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.98])
def test_torn_files(tmp_path, kind, share):
    path = tmp_path / "net.bin"
    if kind == "safetensors":
        save_file(Net().state_dict(), path)
    else:
        torch.save(Net().state_dict(), path, _use_new_zipfile_serialization=kind == "zip")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CurvtoolError) as caught:
        loaded(path)
    assert caught.value.code == "CT011" and caught.value.exit_status == 3


@pytest.mark.parametrize(
    "name,content,code",
    [
        ("empty.pt", b"", "CT011"),
        ("text.pt", b"hello, I am no checkpoint", "CT011"),
        ("table.parquet", b"PAR1" + bytes(100), "CT011"),
        ("model.gguf", b"GGUF" + bytes(100), "CT011"),
        ("header.safetensors", (2**60).to_bytes(8, "little") + b'{"a":1}', "CT011"),
    ],
)
def test_other_files(tmp_path, name, content, code):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CurvtoolError, match=code):
        loaded(tmp_path / name)


def test_missing_file_names_the_nearest(tmp_path):
    (tmp_path / "resnet.pt").write_bytes(b"x")
    with pytest.raises(CurvtoolError) as caught:
        loaded(tmp_path / "resnt.pt")
    assert caught.value.code == "CT010" and "resnet.pt" in caught.value.remedy
    with pytest.raises(CurvtoolError, match="folder"):
        loaded(tmp_path)


def test_data_passed_as_a_checkpoint(tmp_path):
    np.savez(tmp_path / "data.npz", inputs=np.ones(3))
    with pytest.raises(CurvtoolError) as caught:
        loaded(tmp_path / "data.npz")
    assert "--data" in caught.value.remedy


def test_keys_that_do_not_fit(tmp_path):
    state = Net().state_dict()
    state["surplus"] = torch.ones(1)
    del state["layer.bias"]
    state["layer.weight"] = torch.ones(7, 3)
    torch.save(state, tmp_path / "net.pt")
    with pytest.raises(CurvtoolError) as caught:
        loaded(tmp_path / "net.pt")
    told = caught.value.received
    assert caught.value.code == "CT014"
    assert "layer.bias" in told and "surplus" in told and "(7, 3)" in told and "(4, 3)" in told


def test_weights_without_code_and_with_nan(tmp_path):
    state = Net().state_dict()
    torch.save(state, tmp_path / "net.pt")
    with pytest.raises(CurvtoolError, match="CT012"):
        load_model(tmp_path / "net.pt", None)
    state["layer.bias"] = state["layer.bias"] * float("nan")
    torch.save(state, tmp_path / "nan.pt")
    with pytest.raises(CurvtoolError, match="CT025"):
        loaded(tmp_path / "nan.pt")


def test_inspection_of_each_kind(tmp_path):
    torch.save({"model": Net().state_dict(), "epoch": 1}, tmp_path / "a.pt")
    found = inspect_file(tmp_path / "a.pt")
    assert found.role == "checkpoint" and found.weights_under == "model" and found.other_keys == ["epoch"]
    assert found.num_params == 4 * 3 + 4 + 4 * 4 and "--factory" in found.next_command
    np.savez(tmp_path / "d.npz", inputs=np.zeros((5, 2), np.float32), targets=np.zeros(5, int))
    found = inspect_file(tmp_path / "d.npz")
    assert found.role == "data" and [t.shape for t in found.tensors] == [[5, 2], [5]]
    found = inspect_file(Path(sniff.__file__))
    assert found.role == "unknown" and not found.tensors


class Tied(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(7, 3)
        self.head = torch.nn.Linear(3, 7, bias=False)
        self.head.weight = self.embed.weight


def test_tied_weights_that_were_written_once(tmp_path):
    made = Tied()
    save_model(made, str(tmp_path / "tied.safetensors"))
    found, _ = load_model(tmp_path / "tied.safetensors", Tied())
    assert torch.equal(found.head.weight, made.head.weight) and torch.equal(found.embed.weight, made.head.weight)
    other = Tied()
    other.head.weight = torch.nn.Parameter(torch.zeros(7, 3))  # not tied: one of the two is missing indeed
    with pytest.raises(CurvtoolError, match="CT014"):
        load_model(tmp_path / "tied.safetensors", other)


def test_inspection_of_a_torn_safetensors(tmp_path):
    save_file(Net().state_dict(), tmp_path / "net.safetensors")
    content = (tmp_path / "net.safetensors").read_bytes()
    (tmp_path / "net.safetensors").write_bytes(content[:-10])
    with pytest.raises(CurvtoolError, match="CT011"):
        inspect_file(tmp_path / "net.safetensors")


def test_two_parts_that_both_fit_are_not_chosen_between(tmp_path):
    torch.save(
        {f"{part}.{k}": v for part in ("student", "teacher") for k, v in Net().state_dict().items()}, tmp_path / "n.pt"
    )
    with pytest.raises(CurvtoolError, match="several parts"):
        loaded(tmp_path / "n.pt")


def test_layers_of_other_shapes_are_no_choice_of_parts():
    weights = {
        f"{i}.{name}": torch.zeros(shape) for i in (0, 2) for name, shape in (("weight", (6, 5)), ("bias", (6,)))
    }
    with pytest.raises(LoadError, match="CT014") as caught:
        fit(torch.nn.Linear(3, 3), weights)
    assert "several parts" not in str(caught.value)
    same = {f"{i}.{name}": torch.zeros(shape) for i in (0, 2) for name, shape in (("weight", (3, 3)), ("bias", (3,)))}
    with pytest.raises(LoadError, match="several parts"):
        fit(torch.nn.Linear(3, 3), same)


@pytest.mark.parametrize(
    ("version", "told"),
    [("2.6.0", True), ("2.9.1+cu126", True), ("2.10.0", False), ("2.13.0+cpu", False), ("3.0", False), ("git", False)],
)
def test_a_torch_whose_reader_is_unsafe_is_told(version, told):
    assert ("CVE-2026-24747" in (caution(version) or "")) == told


def test_that_is_said_before_such_a_file_is_read(tmp_path, monkeypatch):
    from curvtool.config.resolve import resolve
    from curvtool.estimators.observer import Observer
    from curvtool.session import load as loading

    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "net.pt")
    heard, observer = [], Observer()
    observer.notice = heard.append
    monkeypatch.setattr(loading, "caution", lambda: caution("2.9.0"))
    config = resolve("eigs", {"checkpoint": str(tmp_path / "net.pt")}, environment={})
    with pytest.raises(LoadError, match="CT012"):
        loading.load(config, observer)
    assert any("CVE-2026-24747" in text for text in heard)
