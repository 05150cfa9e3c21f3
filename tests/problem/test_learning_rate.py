"""The learning rate out of a training checkpoint."""

import json
from pathlib import Path

import pytest
import torch

from curvtool.errors import LoadError
from curvtool.problem.checkpoints.learning_rate import learning_rate_of


@pytest.fixture
def optimizer():
    return torch.optim.SGD(torch.nn.Linear(2, 2).parameters(), lr=0.3, momentum=0.9)


@pytest.mark.parametrize(
    "place",
    [
        lambda state: {"optimizer": state},
        lambda state: {"model": {}, "optimizer_state_dict": state},
        lambda state: {"optimizer_states": [state]},
        lambda state: {"app": {"optimizer": state}},
    ],
)
def test_where_it_stands(tmp_path, optimizer, place):
    torch.save(place(optimizer.state_dict()), tmp_path / "net.pt")
    assert learning_rate_of(tmp_path / "net.pt") == 0.3


def test_a_tensor_and_groups_of_one_rate(tmp_path):
    net = torch.nn.Linear(2, 2)
    groups = [{"params": [net.weight]}, {"params": [net.bias]}]
    state = torch.optim.Adam(groups, lr=torch.tensor(0.5)).state_dict()
    torch.save({"optimizer": state}, tmp_path / "net.pt")
    assert learning_rate_of(tmp_path / "net.pt") == 0.5


def test_none_and_several_are_refused(tmp_path, optimizer):
    torch.save({"model": {"w": torch.ones(2)}}, tmp_path / "none.pt")
    optimizer.add_param_group({"params": [torch.ones(2, requires_grad=True)], "lr": 0.1})
    torch.save({"optimizer": optimizer.state_dict()}, tmp_path / "two.pt")
    for name, told in (("none.pt", "no optimizer"), ("two.pt", "rates 0.1, 0.3")):
        with pytest.raises(LoadError, match="CT017") as caught:
            learning_rate_of(tmp_path / name)
        assert told in str(caught.value) and "--lr" in caught.value.remedy


def test_on_the_command_line(run, tmp_path, optimizer, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rated.py").write_text("import torch\ndef net(): return torch.nn.Linear(2, 2)\n")
    torch.manual_seed(0)
    for step in (1, 2):
        torch.save(
            {"model": torch.nn.Linear(2, 2).state_dict(), "optimizer": optimizer.state_dict()}, f"step_{step}.pt"
        )
    torch.save({"x": torch.randn(30, 2), "y": torch.randint(0, 2, (30,))}, "data.pt")
    words = ["--factory", "rated:net", "--data", "data.pt", "--lr", "auto", "-k", "1"]
    status, out, _ = run("eigs", "step_1.pt", *words)
    assert status == 0 and "x learning rate 0.3" in out
    status, out, _ = run("track", "step_*.pt", *words)
    assert status == 0 and "x lr" in out and "of 2 checkpoints" in out
    assert run("eigs", "--lr", "auto")[0] == 3
    (tmp_path / "curvtool.toml").write_text('[[analysis]]\nkind = "trace"\n')
    status, _, err = run("track", "step_*.pt", *words)
    assert status == 2 and "CT003" in err and "-k" in err

    # another rate takes no product, and the rows are told against it
    (tmp_path / "curvtool.toml").unlink()
    before = [json.loads(line) for line in Path("track.jsonl").read_text().splitlines()]
    words[words.index("auto")] = "0.6"
    assert run("track", "step_*.pt", *words)[0] == 0
    after = [json.loads(line) for line in Path("track.jsonl").read_text().splitlines()]
    for row, other in zip(before, after, strict=True):
        one, two = (each["analyses"][0] for each in (row, other))
        assert one["eigenvalues"] == two["eigenvalues"] and row["ended"] == other["ended"]
        assert two["stability"]["sharpness_times_lr"] == pytest.approx(2 * one["stability"]["sharpness_times_lr"])
    words[words.index("-k") + 1] = "2"
    status, _, err = run("track", "step_*.pt", *words)
    assert status == 3 and "CT063" in err and "eigs.k = 1, now 2" in err
    assert run("track", "step_*.pt", *words, "-o", "rows.txt")[0] == 2
