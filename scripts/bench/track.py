#!/usr/bin/env python
"""What starting from the vectors of the checkpoint before saves: products of cold, auto and warm starts, as a table.

    python scripts/bench/track.py [-k 1,3,5] [--rtol 1e-3] [--checkpoints 10] [--seeds 0,1] [--json FILE]

Trains a multilayer perceptron on the embedded digits and keeps checkpoints every 3 steps, and every epoch; then
`curvtool track` goes over them with each kind of start at the same certified error. Counted are the products of the
search for eigenpairs; `worst` is the most by which one checkpoint took more than its cold start. Whether the bounds
hold is told by a search of another seed at a thousandth of the tolerance.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from curvtool.analyses.eigs.record import Eigs
from curvtool.cluster.solo import Solo
from curvtool.config.resolve import resolve_all
from curvtool.estimators.observer import SILENT
from curvtool.problem.demo import digits
from curvtool.report.model import TrackRow
from curvtool.tracking.track import Track

EVERY = {"3 steps": 3, "epoch": 57}
STARTS = ("cold", "auto", "warm")
NET = """\
import torch
from torch import nn


def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
"""


def train(folder: Path, steps: int, num: int, seed: int) -> None:
    """`num` checkpoints, one after every so many steps of batches of 32."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    data, order = digits(), torch.empty(0, dtype=torch.long)
    for step in range(steps * num):
        if len(order) < 32:
            order = torch.randperm(len(data.targets))
        batch, order = order[:32], order[32:]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(data.inputs[batch]), data.targets[batch]).backward()
        optimizer.step()
        if (step + 1) % steps == 0:
            torch.save(model.state_dict(), folder / f"step_{step + 1:04d}.pt")


def rows_of(folder: Path, start: str, k: int, rtol: float, seed: int = 0) -> list[TrackRow]:
    """What `curvtool track` finds."""
    paths = sorted(folder.glob("step_*.pt"))
    flags = {
        "checkpoint": str(paths[0]), "factory": "checkpointed_net:net", "source": "demo:digits", "k": k, "rtol": rtol,
        "hvp": "fresh", "operations": "torch", "device": "cpu", "seed": seed, "dtype": "float64",
    }  # fmt: skip
    configs = resolve_all(flags, environment={}, default="eigs")
    target = folder / f"{start}-{k}-{rtol:g}-{seed}.jsonl"
    track = Track(configs, paths, target, None, start, Solo(), None, lambda: False)
    rows = list(track.rows(SILENT))
    if track.failed is not None:
        raise track.failed
    return rows


def eigs_of(row: TrackRow) -> Eigs:
    """Its one analysis."""
    (found,) = row.analyses
    assert isinstance(found, Eigs)
    return found


def compare(folder: Path, k: int, rtol: float) -> dict[str, Any]:
    """Products by start, the worst checkpoint, and how many bounds do not hold."""
    products, broken, bounds = {}, 0, 0
    exact = [[p.value for p in eigs_of(row).eigenvalues] for row in rows_of(folder, "cold", k, rtol / 1000, seed=1)]
    for start in STARTS:
        rows = rows_of(folder, start, k, rtol)
        products[start] = [eigs_of(row).cost.solver_hvps for row in rows]
        for row, values in zip(rows, exact, strict=True):
            for pair, value in zip(eigs_of(row).eigenvalues, values, strict=True):
                bounds += 1
                broken += abs(pair.value - value) > pair.error_bound
    worst = {start: max(a - b for a, b in zip(products[start], products["cold"], strict=True)) for start in STARTS}
    sums = {start: sum(products[start]) for start in STARTS}
    return {"k": k, "sums": sums, "worst": worst, "products": products, "broken": broken, "bounds": bounds}


def main() -> None:
    """Trains, compares and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-k", default="1,3,5")
    parser.add_argument("--rtol", type=float, default=1e-3)
    parser.add_argument("--checkpoints", type=int, default=10)
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--json")
    given = parser.parse_args()
    found = []
    print("   every seed   k   cold   auto   warm  worst auto   bounds broken")
    for every, steps in EVERY.items():
        for seed in map(int, given.seeds.split(",")):
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                (folder / "checkpointed_net.py").write_text(NET)
                sys.path.insert(0, name)
                train(folder, steps, given.checkpoints, seed)
                for k in map(int, given.k.split(",")):
                    told = {"every": every, "seed": seed, **compare(folder, k, given.rtol)}
                    found.append(told)
                    sums = told["sums"]
                    print(
                        f"{every:>8} {seed:>4} {k:>3} {sums['cold']:>6g} {sums['auto']:>6g} {sums['warm']:>6g} "
                        f"{told['worst']['auto']:>+11g} {told['broken']:>8} of {told['bounds']}",
                        flush=True,
                    )
    if given.json:
        Path(given.json).write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
