"""Every shipped configuration runs, on a small stand-in for the files that it names."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

CONFIGS = Path(__file__).parents[2] / "configs"
FAST = {
    "CURVTOOL_OPERATIONS": "torch", "CURVTOOL_HVP": "kept", "CURVTOOL_DEVICE": "cpu", "CURVTOOL_MAX_PASSES": "30",
}  # fmt: skip
MODELS = """
import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.head = torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 5)

    def forward(self, x):
        return self.head(torch.relu(self.bn(self.conv(x))).mean((2, 3)))


def resnet20():
    return Net()


def regressor():
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """What the configurations name, small."""
    rng = np.random.default_rng(0)
    (tmp_path / "models.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "models", raising=False)
    for name, value in FAST.items():
        monkeypatch.setenv(name, value)
    images, labels = rng.normal(size=(24, 3, 6, 6)).astype(np.float32), rng.integers(0, 5, 24)
    for name in ("test", "calibration", "train", "images"):
        np.savez(tmp_path / f"{name}.npz", inputs=images, targets=labels)
    return tmp_path


def put(folder, name, **replaced):
    text = (CONFIGS / name).read_text()
    for old, new in replaced.items():
        assert old in text
        text = text.replace(old, new)
    (folder / name).write_text(text)


def weights(folder, module, name="net.pt"):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(len(name))
    made = module()
    moved = {k: v + 0.01 * torch.randn(v.shape) if v.is_floating_point() else v for k, v in made.state_dict().items()}
    torch.save(moved, folder / name)


def ran(run, folder, name, *words):
    status, _, said = run("run", str(folder / name), "--json", "r.json", *words)
    assert status == 0, said
    return [analysis["kind"] for analysis in json.loads((folder / "r.json").read_text())["analyses"]]


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("image_classifier.toml", ["eigs", "trace"]),
        ("quantisation.toml", ["trace", "eigs", "diag"]),
        ("jacobian_audit.toml", ["jacnorm"]),
    ],
)
def test_of_images(name, kinds, run, folder):
    import models

    put(folder, name)
    weights(folder, models.resnet20)
    assert ran(run, folder, name) == kinds


def test_of_a_table(run, folder):
    pytest.importorskip("datasets")
    import models

    rows = np.random.default_rng(0).normal(size=(20, 4))
    (folder / "table.csv").write_text("x1,x2,x3,y\n" + "\n".join(",".join(map(str, row)) for row in rows) + "\n")
    put(folder, "regression.toml")
    weights(folder, models.regressor)
    assert ran(run, folder, "regression.toml") == ["eigs", "eigs", "density"]


def test_of_the_embedded_example(run, folder, monkeypatch):
    put(folder, "spectrum.toml")
    monkeypatch.setenv("CURVTOOL_NUM_SAMPLES", "24")
    assert ran(run, folder, "spectrum.toml") == ["eigs", "trace", "density", "diag"]


def test_of_a_language_model(run, folder):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=50, n_positions=512, n_embd=8, n_layer=1, n_head=2)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder / "gpt2-finetuned")
    tokens = np.random.default_rng(0).integers(0, 50, 16 * 9).astype(np.uint16)
    (folder / "val.bin").write_bytes(tokens.tobytes())
    put(folder, "language_model.toml")
    assert ran(run, folder, "language_model.toml", "--sequence-length", "16") == ["eigs", "trace"]


def test_of_a_training_run(run, folder):
    import models

    put(folder, "track.toml")
    for step in (2, 10, 9):
        weights(folder, models.resnet20, f"runs/a/step_{step}.pt")
    words = ["track", "runs/a/step_*.pt", "--config", "track.toml", "-o", "rows.jsonl"]
    status, out, said = run(*words)
    assert status == 0, said
    rows = [json.loads(line) for line in Path("rows.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 9, 10]
    assert rows[0]["start"] == "cold" and {row["start"] for row in rows} <= {"cold", "warm"}
    assert "3 checkpoints" in out
    # started again it does nothing; with the last row cut off it makes up for that one
    content = Path("rows.jsonl").read_bytes()
    assert run(*words)[0] == 0 and Path("rows.jsonl").read_bytes() == content
    Path("rows.jsonl").write_bytes(content[:-30])
    assert run(*words)[0] == 0
    again = [json.loads(line) for line in Path("rows.jsonl").read_text().splitlines()]
    for one, other in zip(again, rows, strict=True):
        assert one["checkpoint"] == other["checkpoint"]
        found, wanted = (row["analyses"][0]["eigenvalues"][0]["value"] for row in (one, other))
        assert found == pytest.approx(wanted, rel=2e-3)
    # rows of other settings are not mixed
    status, _, said = run(*words, "--num-samples", "10")
    assert (
        status == 3
        and "CT063" in said
        and "num_samples" in said
        and len(Path("rows.jsonl").read_text().splitlines()) == 3
    )
    # one that does not load is left out, and told; the others have their rows
    Path("runs/a/step_5.pt").write_bytes(b"nothing")
    Path("runs/a/step_11.pt").write_bytes(Path("runs/a/step_10.pt").read_bytes())
    status, _, said = run(*words)
    assert status == 3 and "left out" in said and len(Path("rows.jsonl").read_text().splitlines()) == 4
    Path("runs/a/step_5.pt").unlink()
    kept = Path("runs/a/step_2.pt").read_bytes()
    Path("runs/a/step_2.pt").write_bytes(Path("runs/a/step_10.pt").read_bytes())
    assert run(*words)[0] == 3
    Path("runs/a/step_2.pt").write_bytes(kept)
    # parts of it
    for part in range(2):
        assert run(*words, "--shard", f"{part}/2")[0] == 0
    parts = [len(Path(f"rows.{part}-of-2.jsonl").read_text().splitlines()) for part in range(2)]
    assert parts == [2, 2]
    assert run(*words, "--shard", "2/2")[0] == 2
    assert run("track", "nothing/*.pt", "--config", "track.toml")[0] == 3
    shutil.rmtree("runs")
