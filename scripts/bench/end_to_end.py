#!/usr/bin/env python
"""Whole runs beside the peers: the same weights, data, threads and accuracy, in turn within one run.

    python scripts/bench/end_to_end.py [eigs|trace|density|jacnorm …] [--tools NAME,…] [--repeats 3] [--json FILE]

Each tool runs in a process of its own. `seconds` leaves imports and loading out for the peers; for curvtool
`seconds` is the estimator's time and `process` the whole command, start-up, preflight and calibration included. The
error is that against float64: ARPACK's eigenvalues to 1e-9, the trace in closed form, every eigenvalue or Jacobian.

- eigs: the five largest eigenvalues to 1e-3, of ResNet20 on 200 images (random weights and labels) and of a digits MLP.
- trace: of the digits MLP on 57 batches of 32, on 2,000 and on 8,000 of them (the digits repeated with noise), to 1 %.
- density: of the digits MLP by four probes of 50 steps; the error is Wasserstein's distance from all
  eigenvalues (how far these would have to move on average) over the largest magnitude.
- jacnorm: the spectral and Frobenius norms of ResNet20's input-output Jacobians for 200 images.

Needs the extra `bench`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from models import make
from torch import nn
from torch.nn import functional

HERE = Path(__file__).resolve().parent
TOOLS = {
    "eigs": ("curvtool", "curvlinops", "hessian-eigenthings", "pyhessian"),
    "trace": ("curvtool", "curvlinops", "hessian-eigenthings", "pyhessian"),
    "density": ("curvtool", "pyhessian"),
    "jacnorm": ("curvtool", "jacrev-8", "jacrev-50", "jacrev-200"),
}
WORKS = {
    "eigs": ("digits", "resnet20"),
    "trace": ("digits", "digits-64000", "digits-256000"),
    "density": ("digits",),
    "jacnorm": ("resnet20",),
}
Values = list[float] | list[list[float]]  # of a density: nodes and their shares


def digits_net() -> nn.Module:
    """64-32-10."""
    return nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))


def problem(work: str) -> tuple[nn.Module, torch.Tensor, torch.Tensor, int]:
    """The model, all inputs and targets, and the batch size."""
    if work == "resnet20":
        made = make("resnet20")
        return made.model, made.inputs, made.targets, len(made.inputs)
    from sklearn.datasets import load_digits

    data = load_digits()
    x, y = torch.tensor(data.data / 16).float(), torch.tensor(data.target)
    torch.manual_seed(0)
    model = digits_net()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(8):
        for start in range(0, len(x), 64):
            optimizer.zero_grad()
            functional.cross_entropy(model(x[start : start + 64]), y[start : start + 64]).backward()
            optimizer.step()
    if work != "digits":
        x, y = noisy_digits(x, y, int(work.partition("-")[2]))
    return model.eval(), x, y, 32


def noisy_digits(x: torch.Tensor, y: torch.Tensor, num: int) -> tuple[torch.Tensor, torch.Tensor]:
    """So many of them, each with noise of its own."""
    generator = torch.Generator().manual_seed(num)
    rows = torch.randint(0, len(x), (num,), generator=generator)
    return x[rows] + 0.02 * torch.randn(num, 64, generator=generator), y[rows]


def by_pyhessian(model: nn.Module, batches: list[Any], quantity: str) -> Values:
    """PyHessian's defaults."""
    from pyhessian import hessian

    data = {"data": batches[0]} if len(batches) == 1 else {"dataloader": batches}
    tool = hessian(model, nn.CrossEntropyLoss(), cuda=False, **data)
    if quantity == "density":
        torch.eig = lambda matrix, eigenvectors: _eig(matrix)  # gone from torch since; of a symmetric matrix
        nodes, weights = (np.array(each).real for each in tool.density(iter=50, n_v=4))
        return [nodes.ravel().tolist(), (weights / weights.sum()).ravel().tolist()]
    return tool.eigenvalues(top_n=5)[0] if quantity == "eigs" else [float(np.mean(tool.trace()))]


def _eig(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    values, vectors = torch.linalg.eigh(matrix)
    return torch.stack([values, torch.zeros_like(values)], dim=1), vectors


def by_eigenthings(model: nn.Module, batches: list[Any], quantity: str) -> list[float]:
    """Its Lanczos with 40 steps; its trace's defaults."""
    from hessian_eigenthings.algorithms.lanczos import lanczos
    from hessian_eigenthings.algorithms.trace import trace
    from hessian_eigenthings.loss_fns import supervised_loss
    from hessian_eigenthings.operators import HessianOperator

    operator = HessianOperator(model, batches, supervised_loss(nn.CrossEntropyLoss()))
    if quantity == "eigs":
        return lanczos(operator, k=5, max_iter=40).eigenvalues.tolist()
    return [float(trace(operator).estimate)]


def by_curvlinops(model: nn.Module, batches: list[Any], quantity: str) -> list[float]:
    """With SciPy's eigsh to 1e-3; XTrace with 60 products."""
    from curvlinops import HessianLinearOperator, xtrace
    from scipy.sparse.linalg import eigsh

    operator = HessianLinearOperator(
        model, nn.CrossEntropyLoss(), list(model.parameters()), batches, check_deterministic=False
    )
    if quantity == "eigs":
        values = eigsh(operator.to_scipy(), k=5, which="LA", tol=1e-3, return_eigenvectors=False)
        return sorted(values.tolist(), reverse=True)
    return [float(xtrace(operator, 60))]


def by_jacrev(model: nn.Module, inputs: torch.Tensor, chunk: int) -> list[float]:
    """vmap(jacrev) in chunks of examples."""
    from torch.func import jacrev, vmap

    model.requires_grad_(False)
    jacobian = vmap(jacrev(lambda x: model(x[None])[0]), chunk_size=chunk)(inputs).flatten(2)
    return torch.linalg.svdvals(jacobian)[:, 0].tolist()


def by_curvtool(work: str, quantity: str, seed: int) -> dict[str, Any]:
    """Through files and the command line, as a user would."""
    model, x, y, batch_size = problem(work)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        torch.save(model.state_dict(), place / "model.pt")
        np.savez(place / "data.npz", inputs=x.numpy(), targets=y.numpy())
        factory = "end_to_end:resnet20_net" if work == "resnet20" else "end_to_end:digits_net"
        flags = {"eigs": ["-k", "5", "--rtol", "1e-3"], "trace": ["--rtol", "0.03"]}.get(quantity, [])
        flags += ["--per-example", "norms.npz"] if quantity == "jacnorm" else ["--batch-size", str(batch_size)]
        command = [sys.executable, "-m", "curvtool", quantity, "model.pt", "--factory", factory, "--data", "data.npz"]
        command += [*flags, "--json", "report.json", "--seed", str(seed)]
        begin = time.perf_counter()
        done = subprocess.run(
            command, cwd=place, env=os.environ | {"PYTHONPATH": str(HERE)}, capture_output=True, text=True
        )
        wall = time.perf_counter() - begin
        if done.returncode:
            raise RuntimeError(done.stderr[-400:])
        found = json.loads((place / "report.json").read_text())["analyses"][0]
        if quantity == "density":
            values = quadrature_of(found)
        elif quantity == "jacnorm":
            values = np.load(place / "norms.npz")["spectral"].tolist()
        else:
            values = [e["value"] for e in found["eigenvalues"]] if quantity == "eigs" else [found["value"]]
    return {"values": values, "seconds": found["cost"]["seconds"], "process": wall,
            "products": found["cost"]["num_hvps"], "peak_bytes": found["cost"]["peak_bytes"]}  # fmt: skip


def quadrature_of(density: dict[str, Any]) -> Values:
    """Its probes' nodes with the shares of the eigenvalues that they stand for, and the outliers, one each."""
    outliers = [each["value"] for each in density["outliers"]]
    num, dims = len(density["nodes"]), density["num_dims"]
    rest = (1 - len(outliers) / dims) / num
    nodes = [node for each in density["nodes"] for node in each] + outliers
    shares = [rest * weight for each in density["weights"] for weight in each] + [1 / dims] * len(outliers)
    return [nodes, shares]


def largest_error(values: Values, truth: np.ndarray, quantity: str) -> float:
    """Relative, of any number; of a density Wasserstein's distance over the largest magnitude."""
    if quantity != "density":
        return float((np.abs(np.array(values) - truth) / np.abs(truth)).max())
    from scipy.stats import wasserstein_distance

    nodes, shares = np.array(values)
    return float(wasserstein_distance(nodes, truth, shares) / np.abs(truth).max())


def resnet20_net() -> nn.Module:
    """For the command line."""
    return make("resnet20").model


def reference(work: str, quantity: str, folder: Path) -> list[float]:
    """In float64, kept in a folder between runs."""
    path = folder / f"{work}-{quantity}.json"
    if path.exists():
        return json.loads(path.read_text())
    from scipy.sparse.linalg import LinearOperator, eigsh

    from curvtool import Hessian, Problem

    model, x, y, batch_size = problem(work)
    model, x = model.double(), x.double()
    if quantity == "jacnorm":
        values = by_jacrev(model, x, 8)
    elif quantity == "trace":
        values = [trace_by_hand(model, x, y)]
    elif quantity == "density":
        matrix = Hessian(Problem(model, (x, y)), batch_size=4000, mode="kept", form="torch").materialize()
        values = torch.linalg.eigvalsh((matrix + matrix.T) / 2).tolist()
    else:
        hessian = Hessian(Problem(model, (x, y)), batch_size=max(batch_size, 4000), mode="kept", form="torch")
        matrix = LinearOperator(hessian.shape, matvec=lambda v: (hessian @ torch.from_numpy(v.ravel())).numpy())
        values = sorted(eigsh(matrix, k=5, which="LA", tol=1e-9, return_eigenvectors=False).tolist(), reverse=True)
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))
    return values


@torch.no_grad()
def trace_by_hand(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """The trace of the Hessian of the mean cross-entropy of a net with one tanh layer, in closed form.

    With h = tanh(W x + b), z = V h + c, p = softmax(z), e the one-hot target: the second derivatives along V_kj and c_k
    are p_k (1 - p_k) h_j^2 and p_k (1 - p_k); along W_ji and b_j they are
    (1 - h_j^2)^2 (sum_k p_k V_kj^2 - (sum_k p_k V_kj)^2) - 2 h_j (1 - h_j^2) sum_k (p_k - e_k) V_kj, times x_i^2.
    """
    first, _, last = model
    h = torch.tanh(first(x))
    p = torch.softmax(last(h), 1)
    v, slope = last.weight, 1 - h**2
    outer = ((p * (1 - p)).sum(1) * (1 + (h**2).sum(1))).sum()
    gradient = (p - functional.one_hot(y, p.shape[1])) @ v
    inner = slope**2 * (p @ v**2 - (p @ v) ** 2) - 2 * h * slope * gradient
    return float((outer + (inner.sum(1) * (1 + (x**2).sum(1))).sum()) / len(x))


def one(tool: str, work: str, quantity: str, seed: int) -> dict[str, Any]:
    """What a tool gives, and its time."""
    from curvtool.operators.memory import peak_bytes

    if tool == "curvtool":
        return by_curvtool(work, quantity, seed)
    torch.manual_seed(seed)
    model, x, y, batch_size = problem(work)
    batches = [(x[i : i + batch_size], y[i : i + batch_size]) for i in range(0, len(x), batch_size)]
    run = {"pyhessian": by_pyhessian, "hessian-eigenthings": by_eigenthings, "curvlinops": by_curvlinops}.get(tool)
    begin = time.perf_counter()
    values = run(model, batches, quantity) if run else by_jacrev(model, x, int(tool.partition("-")[2]))
    seconds = time.perf_counter() - begin
    peak = peak_bytes(torch.device("cpu"))
    return {"values": values, "seconds": seconds, "peak_bytes": peak}


def main() -> None:
    """A JSON line a run, and all of them in a file where asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("quantities", nargs="*", default=list(TOOLS))
    parser.add_argument("--tools", default="")
    parser.add_argument("--works", default="")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "curvtool-bench")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        tool, work, quantity, seed = args.one
        print("RESULT " + json.dumps(one(tool, work, quantity, int(seed))))
        return
    rows = []
    for quantity in args.quantities:
        for work in [w for w in WORKS[quantity] if not args.works or w in args.works.split(",")]:
            truth = np.array(reference(work, quantity, args.cache))
            for repeat in range(args.repeats):
                for tool in [t for t in TOOLS[quantity] if not args.tools or t in args.tools.split(",")]:
                    command = [sys.executable, "-W", "ignore", __file__, "--one", tool, work, quantity, str(repeat)]
                    begin = time.perf_counter()
                    done = subprocess.run(command, capture_output=True, text=True)
                    whole = time.perf_counter() - begin
                    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
                    row = {"quantity": quantity, "work": work, "tool": tool, "repeat": repeat}
                    if lines:
                        found = json.loads(lines[-1][7:])
                        error = largest_error(found.pop("values"), truth, quantity)
                        row |= {"process": whole, **found, "largest_error": error}
                    else:
                        row["error"] = done.stderr[-300:]
                    rows.append(row)
                    print(json.dumps(row), flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
