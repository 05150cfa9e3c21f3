"""Thirty-odd mistakes that people make, and what each is told: what is wrong, and what to type instead."""

import json

import numpy as np
import pytest
import torch

MODELS = """
import torch

def net(outputs=3):
    return torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.ReLU(), torch.nn.Linear(5, outputs))

def nothing():
    return 7

def failing():
    raise ValueError("no weights today")

def images():
    return torch.nn.Conv2d(3, 4, 3)
"""
NET = ["net.pt", "--factory", "mistaken:net"]
FULL = [*NET, "--data", "data.npz"]
MISTAKES = [
    # flags and their values
    (["eigs", "--rtoll", "1e-3"], 2, "--rtol"),
    (["eigz"], 2, "eigs"),
    (["eigs", "-k", "0"], 2, "1 or more"),
    (["eigs", "-k", "many"], 2, "valid integer"),
    (["eigs", "--which", "largest"], 2, "la"),
    (["eigs", "--operator", "gauss-newton"], 2, "ggn"),
    (["eigs", "--dtype", "float16"], 2, "float32"),
    (["eigs", "--device", "gpu"], 2, "--device auto"),
    (["eigs", "--memory-budget", "lots"], 2, "8GiB"),
    (["eigs", "--params", "conv9.*"], 2, "conv9"),
    (["eigs", "-o", "report.xls"], 2, ".json"),
    (["eigs", "-o", "nowhere/report.json"], 2, "mkdir -p"),
    (["eigs", "--lr", "0"], 2, "--lr"),
    (["trace", "--rtol", "5"], 2, "--rtol 0.05"),
    (["trace", "--method", "hutchinsen"], 2, "hutchinson"),
    (["eigs", "--ranks", "8"], 2, "--dry-run"),
    (["eigs", "--config", "nothing.toml"], 2, "`curvtool init` writes one"),
    (["eigs", "--rtol", "nan"], 2, "not a number"),
    (["eigs", "-k", "2", "--num", "3"], 2, "received: -k 2 --num 3"),
    (["trace", "-o", "/dev/null"], 2, "--format md"),
    (["run", "wrong.toml"], 2, "num_samples"),
    (["run", "nothing.toml"], 2, "`curvtool init` writes one"),
    (["run", "kindless.toml"], 2, 'kind = "eigs"'),
    (["run", "elsewhere.toml"], 2, "batch_size belongs under [data]"),
    (["explain", "sharpnes"], 2, "sharpness"),
    (["compare", "report.json"], 3, "--json report.json"),
    # files and keys
    (["eigs", "nte.pt", "--factory", "mistaken:net", "--data", "data.npz"], 3, "net.pt"),
    (["eigs", "net.pt", "--data", "data.npz"], 3, "--factory"),
    (["eigs", *NET], 3, "--data"),
    (["eigs", *NET, "--data", "dta.npz"], 3, "data.npz"),
    (["eigs", *NET, "--data", "named.npz"], 3, "--input-key"),
    (["eigs", "net.pt", "--factory", "mistaken:ned", "--data", "data.npz"], 3, "'net'"),
    (["eigs", "net.pt", "--factory", "mistoken:net", "--data", "data.npz"], 3, "mistaken"),
    (["eigs", "net.pt", "--factory", "mistaken:nothing", "--data", "data.npz"], 3, "Module"),
    (["eigs", "net.pt", "--factory", "mistaken:failing", "--data", "data.npz"], 3, "no weights today"),
    (["eigs", *FULL, "-K", "outputs=7"], 3, "2.weight"),
    (["eigs", "text.pt", "--factory", "mistaken:net", "--data", "data.npz"], 3, "inspect"),
    (["render", "text.pt"], 3, "--json report.json"),
    # shapes and values
    (["eigs", *NET, "--data", "wide.npz"], 3, "(4x6 and 4x5)"),
    (["eigs", *NET, "--data", "labels.npz"], 3, "row"),
    (["eigs", *NET, "--data", "nan.npz"], 3, "row 2"),
    (["eigs", *NET, "--data", "unequal.npz"], 3, "samples"),
    (["eigs", *FULL, "--loss", "cross_entrpy"], 2, "cross-entropy"),
    (["eigs", *FULL, "--loss", "mse"], 3, "targets"),
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("mistakes")
    (path / "mistaken.py").write_text(MODELS)
    net = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3))
    torch.save(net.state_dict(), path / "net.pt")
    (path / "text.pt").write_text("these are no weights\n" * 30)
    (path / "wrong.toml").write_text('[data]\nnum_sample = 3\n[[analysis]]\nkind = "eigs"\n')
    (path / "kindless.toml").write_text("[[analysis]]\nk = 2\n")
    (path / "elsewhere.toml").write_text('[compute]\nbatch_size = 7\n[[analysis]]\nkind = "eigs"\n')
    (path / "report.json").write_text(json.dumps({"schema_version": "1.0"}))
    x, y = np.ones((6, 4), np.float32), np.zeros(6, np.int64)
    bad = x.copy()
    bad[2, 1] = np.nan
    for name, arrays in {
        "data": {"inputs": x, "targets": y},
        "named": {"pictures_of": x, "what_they_are": y, "weights_of": x},
        "wide": {"inputs": np.ones((6, 6), np.float32), "targets": y},
        "labels": {"inputs": x, "targets": y + 9},
        "nan": {"inputs": bad, "targets": y},
        "unequal": {"inputs": x, "targets": y[:5]},
    }.items():
        np.savez(path / f"{name}.npz", **arrays)
    return path


@pytest.mark.parametrize(("words", "status", "told"), MISTAKES, ids=[" ".join(row[0]) for row in MISTAKES])
def test_told_with_its_remedy(run, folder, monkeypatch, words, status, told):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "200")
    found, out, err = run(*words)
    assert found == status, err
    assert told in err, err
    assert out == "" and "try" in err.lower(), err
    assert len(err.strip().splitlines()) <= 12
