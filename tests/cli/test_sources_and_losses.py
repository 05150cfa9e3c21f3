"""Formats, sources and losses as they are typed, each with what it says on the way."""

import json
import sys

import numpy as np
import pytest
import torch

CODE = """
import torch
from torch import nn

def net(inputs=3, classes=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(inputs, 5), nn.Tanh(), nn.Linear(5, classes))

class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.bag = nn.EmbeddingBag(9, 6)
        self.last = nn.Linear(6, 3)
    def forward(self, x):
        return self.last(torch.tanh(self.bag(x.flatten(), torch.arange(0, x.numel(), x.shape[1]))))
"""
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(30, 3)).astype(np.float32), RNG.integers(0, 3, 30)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "code_here", raising=False)
    (tmp_path / "code_here.py").write_text(CODE)
    import code_here  # type: ignore[import-not-found]

    torch.save(code_here.net().state_dict(), "net.pt")
    torch.save(code_here.Bag().state_dict(), "bag.pt")
    np.savez("data.npz", inputs=X, targets=Y)
    return tmp_path


def eigs(run, *words):
    status, out, err = run("eigs", *words, "-k", "1", "--dtype", "float64", "--json", "-")
    assert status == 0, err
    return json.loads(out), err


def value(report):
    return report["analyses"][0]["eigenvalues"][0]["value"]


def test_options_of_a_loss(folder, run):
    plain = ("net.pt", "--factory", "code_here:net", "--data", "data.npz")
    report, err = eigs(run, *plain)
    assert "loss: cross-entropy (the targets are class indices)" in err
    np.save("w.npy", np.array([1.0, 1.0, 1.0]))
    same, _ = eigs(run, *plain, "-L", "class_weights=w.npy")
    assert value(same) == pytest.approx(value(report), rel=1e-6)
    other, _ = eigs(run, *plain, "-L", "class_weights=[1,5,1]", "-L", "label_smoothing=0.2")
    assert value(other) != pytest.approx(value(report), rel=1e-3)
    assert other["problem"]["weight"] == pytest.approx(30 + 4 * int((Y == 1).sum()))
    status, _, err = run("eigs", *plain, "-L", "class_weight=1")
    assert status == 2 and "class_weights" in err
    status, _, err = run("eigs", *plain, "--reduction", "token-maen")
    assert status == 2


def test_real_targets_are_taken_for_regression(folder, run):
    np.savez("real.npz", inputs=X, targets=X)
    _, err = eigs(run, "net.pt", "--factory", "code_here:net", "--data", "real.npz")
    assert "loss: mse (the targets are real numbers)" in err


def test_differences_of_gradients_say_that_they_are_approximate(folder, run):
    np.savez("tokens.npz", inputs=RNG.integers(0, 9, (30, 4)), targets=Y)
    words = ("bag.pt", "--factory", "code_here:Bag", "--data", "tokens.npz")
    status, _, err = run("eigs", *words)
    assert status == 5 and "bag (EmbeddingBag)" in err and "finite-difference" in err
    report, err = eigs(run, *words, "--hvp", "finite-difference")
    assert "CT217" in err and report["provenance"]["ad_mode"] == "finite-difference"
    assert 0 < report["problem"]["preflight"]["noise_floor"] < 1e-6
    status, _, err = run("trace", *words, "--hvp", "finite-difference", "--operator", "ggn")
    assert status == 2 and "CT003" in err
    assert run("check", *words, "--hvp", "finite-difference")[0] == 0


def test_tokens_and_a_hugging_face_folder(folder, run):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    settings = transformers.GPT2Config(
        vocab_size=20, n_positions=16, n_embd=4, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )
    transformers.GPT2LMHeadModel(settings).save_pretrained("gpt2")
    RNG.integers(0, 20, 100).astype(np.uint16).tofile("val.bin")
    report, err = eigs(run, "gpt2", "--data", "val.bin", "--sequence-length", "10", "--num-samples", "4")
    assert "loss: causal-lm (the model is a GPT2LMHeadModel)" in err and "sequences of 10 tokens" in err
    assert report["problem"]["weight"] == 36
    per_sample, _ = eigs(
        run, "gpt2", "--data", "val.bin", "--sequence-length", "10", "--num-samples", "4", "--reduction", "sample-mean"
    )
    assert value(per_sample) == pytest.approx(value(report), rel=1e-6)  # all of one length
    assert per_sample["problem"]["weight"] == 4
    status, _, err = run("eigs", "gpt2", "--data", "val.bin")
    assert status == 3 and "--sequence-length" in err
    RNG.integers(0, 60, 100).astype(np.uint16).tofile("wrong.bin")
    status, _, err = run("eigs", "gpt2", "--data", "wrong.bin", "--sequence-length", "10")
    assert status == 3 and "range" in err
    assert "GPT2LMHeadModel" in run("inspect", "gpt2")[1]


def test_a_folder_of_images_with_their_scale(folder, run):
    image = pytest.importorskip("PIL.Image")
    for name in ("a/1", "a/2", "b/1", "b/2"):
        path = folder / "pictures" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.fromarray(RNG.integers(0, 256, (4, 4, 3), dtype=np.uint8)).save(path)
    layers = "nn.Flatten(), nn.Linear(48, 2), nn.Tanh(), nn.Linear(2, 2)"
    (folder / "code_images.py").write_text(f"from torch import nn\nnet = lambda: nn.Sequential({layers})\n")
    sys.modules.pop("code_images", None)
    import code_images  # type: ignore[import-not-found]

    torch.save(code_images.net().state_dict(), "images.pt")
    words = ("images.pt", "--factory", "code_images:net", "--data", "pictures")
    _, err = eigs(run, *words)
    assert "2 classes by folder: a, b" in err and "--image-mean" in err
    _, err = eigs(run, *words, "--image-mean", "0.5", "--image-std", "0.2,0.2,0.3")
    assert "pixels as (x / 255" in err
    assert run("eigs", *words, "--image-mean", "0.5,0.5")[0] == 2


def test_a_missing_extra_says_what_to_install(folder, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    (folder / "table.csv").write_text("a,b,label\n1,2,0\n2,1,1\n")
    status, _, err = run("eigs", "net.pt", "--factory", "code_here:net", "--data", "table.csv")
    assert status == 3 and "CT018" in err and "curvtool[data]" in err


def test_targets_of_zero_and_one_and_one_logit(folder, run):
    (folder / "code_one.py").write_text("from torch import nn\nnet = lambda: nn.Linear(3, 1)\n")
    sys.modules.pop("code_one", None)
    import code_one  # type: ignore[import-not-found]

    torch.save(code_one.net().state_dict(), "one.pt")
    np.savez("binary.npz", inputs=X, targets=(Y > 0).astype(np.float32))
    np.savez("whole.npz", inputs=X, targets=(Y > 0).astype(np.int64))
    words = ("one.pt", "--factory", "code_one:net", "--data")
    assert "loss: bce-with-logits (the targets are 0 and 1)" in eigs(run, *words, "binary.npz")[1]
    status, _, err = run("eigs", *words, "whole.npz")
    assert status == 3 and "bce-with-logits" in err


def test_a_program_of_a_fixed_batch_and_a_factory_that_exits(folder, run):
    import code_here

    torch.export.save(torch.export.export(code_here.net(), (torch.from_numpy(X[:4]),)), "static.pt2")
    status, _, err = run("eigs", "static.pt2", "--trust", "--data", "data.npz")
    assert status == 3 and "dynamic_shapes" in err
    (folder / "code_exits.py").write_text("import sys\nsys.exit(7)\n")
    status, _, err = run("eigs", "net.pt", "--factory", "code_exits:net", "--data", "data.npz")
    assert status == 3 and "CT013" in err
