#!/usr/bin/env python
"""Peak memory, each measurement in a process of its own.

    python scripts/bench/memory.py [parts|basis|parameters|gpt|jacnorm …] [--json FILE]

- parts: five eigenpairs of a 25-million-parameter network, beside the sum of what it is made of.
- basis: the same with the basis in bfloat16, in 40 products (this spectrum is too dense for it to converge).
- parameters: the same for networks of 1 to 50 million parameters: the peak above the start in vectors of P floats.
- gpt: five eigenvalues of a GPT of 124 million parameters on two sequences of 64 tokens.
- jacnorm: the spectral norms of ResNet20's 200 Jacobians, by the tool and by vmap(jacrev) at several chunks.

The peak is the process's (Linux). What Python, torch, the network and a first run on one sample hold is the start.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from end_to_end import by_jacrev
from models import Work, make

from curvtool import Hessian, InputJacobian, Problem, eigenvalues, jacobian_norms
from curvtool.estimators.request import Basis
from curvtool.operators.memory import peak_bytes, return_freed_pages, reuse_freed_pages

MIB = 2**20
BASIS, NUM_PAIRS = 12, 5
WIDTHS = (640, 1536, 2560, 4096, 6144)
CHUNKS = (8, 25, 50, 200)


def wide(width: int) -> Work:
    """2048-width-width-10 on 32 vectors."""
    torch.manual_seed(0)
    layers = [torch.nn.Linear(2048, width), torch.nn.Tanh(), torch.nn.Linear(width, width), torch.nn.Tanh()]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(width, 10))
    return Work(model, torch.randn(32, 2048), torch.randint(0, 10, (32,)))


def started(first: Callable[[], object]) -> int:
    """What the process holds once a first small run has loaded what is needed; the peak starts anew here."""
    first()
    return_freed_pages()
    Path("/proc/self/clear_refs").write_text("5")  # Linux: VmHWM becomes VmRSS
    return peak_bytes(torch.device("cpu"))


def eigs(work: Work, basis: Basis = "auto", max_passes: int = 300, **options: object) -> dict[str, float]:
    """Five eigenpairs to 1e-3 with 12 basis vectors."""
    single = Work(work.model, work.inputs[:1], work.targets[:1])
    start = started(lambda: torch.autograd.grad(single.loss(), list(work.model.parameters())))
    hessian = Hessian(Problem(work.model, (work.inputs, work.targets)), batch_size=len(work.inputs), **options)
    result = eigenvalues(hessian, NUM_PAIRS, max_basis=BASIS, basis=basis, rtol=1e-3, max_passes=max_passes)
    peak = peak_bytes(torch.device("cpu"))
    vector = hessian.space.vector_bytes
    graph = hessian.execution.calibration.graph_bytes_per_sample * len(work.inputs)
    return {
        "num_params": hessian.space.dim,
        "start": start,
        "peak": peak,
        "vector": vector,
        "graph": graph,
        "products": result.cost.num_hvps,
        "converged": result.converged,
        "vectors_above_start": (peak - start - graph) / vector,
    }


def jacnorm(tool: str) -> dict[str, float]:
    """The spectral norms alone, and their mean as a check; the same of one image comes first."""
    work = make("resnet20")

    def norms(inputs: torch.Tensor) -> list[float]:
        if tool != "curvtool":
            return by_jacrev(work.model, inputs, int(tool.partition("-")[2]))
        return list(jacobian_norms(InputJacobian(Problem(work.model, inputs, None))).spectral)

    start = started(lambda: norms(work.inputs[:1]))
    mean = sum(norms(work.inputs)) / len(work.inputs)
    peak = peak_bytes(torch.device("cpu"))
    return {"start": start, "peak": peak, "above_start": peak - start, "mean_norm": float(mean)}


def one(what: str, which: str) -> dict[str, float]:
    """A measurement by name."""
    reuse_freed_pages()  # as the command line does
    if what == "jacnorm":
        return jacnorm(which)
    if what == "gpt":
        return eigs(make("gpt-124m"), memory_budget=int(which) * 2**30)
    if what == "basis":
        return eigs(wide(WIDTHS[3]), basis=which, max_passes=40, mode="kept")
    return eigs(wide(int(which)), mode="kept")


def apart(what: str, which: str) -> dict[str, float]:
    """The same in a process of its own."""
    command = [sys.executable, "-W", "ignore", __file__, "--one", what, which]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {"what": what, "which": which, **json.loads(done.stdout.splitlines()[-1])}


def print_parts(row: dict[str, float]) -> None:
    """What the peak is made of."""
    vector = row["vector"]
    parts = {
        "before the run": row["start"],
        "the problem's copy of the parameters": vector,
        f"basis of {BASIS} + 1 vectors": (BASIS + 1) * vector,
        f"{NUM_PAIRS} eigenvectors": NUM_PAIRS * vector,
        "a product, its parts and what is taken out of it": 3 * vector,
        "the gradient and its graph": vector + row["graph"],
    }
    for name, size in parts.items():
        print(f"{size / MIB:8.0f} MiB  {name}")
    print(f"{sum(parts.values()) / MIB:8.0f} MiB  their sum")
    print(f"{row['peak'] / MIB:8.0f} MiB  peak")


def main() -> None:
    """A line a measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["parts", "basis", "parameters", "gpt", "jacnorm"])
    parser.add_argument("--gpt-budget", type=int, default=11, help="GiB, --memory-budget of the GPT")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(*args.one)))
        return
    rows = []
    for what in args.what:
        which = {
            "parts": [str(WIDTHS[3])],
            "basis": ["device", "bfloat16"],
            "parameters": [str(width) for width in WIDTHS],
            "gpt": [str(args.gpt_budget)],
            "jacnorm": ["curvtool", *(f"jacrev-{chunk}" for chunk in CHUNKS)],
        }[what]
        for name in which:
            rows.append(apart(what, name))
            print(json.dumps(rows[-1]), flush=True)
            if what == "parts":
                print_parts(rows[-1])
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
