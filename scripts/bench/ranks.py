#!/usr/bin/env python
"""The cost model of several ranks beside what gloo ranks on this machine take, as a table of ratios.

    python scripts/bench/ranks.py [--models small;large] [--ranks 1,2,4] [--repeats 7] [--json FILE]

For each model and number of ranks the ranks are processes of one thread. In turn within one run they time a step of
Lanczos with its product; alone, a gather and a reduce-scatter of P numbers, an all-reduce of as many, and one of a
single number; and, each rank by itself, a product over all data and a pass of Gram-Schmidt: what
`curvtool.planning.cost_model` is given. A ratio is a step's seconds over what the model makes of the others, the median
over the repeats.

R ranks share the machine's c cores, so every rank multiplies by itself at the same time, and the slowest one's time
counts: it holds what sharing costs. How many times as long that takes as one rank's while the others wait is told
beside max(1, R/c), what the model supposes where it is given the cores. Bytes are those that the group counts, and
torch's own allocations within a step, by its profiler.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from curvtool import Hessian, Problem
from curvtool.cluster.group import join
from curvtool.cluster.solo import Solo
from curvtool.linalg.lanczos import Keep, Lanczos
from curvtool.linalg.space import VectorSpace
from curvtool.operators.memory import reuse_freed_pages
from curvtool.planning.cost_model import ClusterModel

MODELS = {"small": (256, 3, 1024, 64), "large": (2200, 4, 64, 16)}  # width, square layers, samples, samples a batch
BASIS, TIMEOUT = 24, 240.0
MODES = ("kept", "fresh")
SILENCE = {"KINETO_LOG_LEVEL": "99", "PYTHONWARNINGS": "ignore"}  # the profiler's words, and torch's own warnings
NAMES = ("seconds", "compute", "traffic", "latency", "vectors", "bandwidth", "sharing", "pair")


def problem_of(name: str) -> Problem:
    """A multilayer perceptron on random data."""
    width, depth, num_samples, _ = MODELS[name]
    torch.manual_seed(0)
    square = [layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.Tanh())]
    model = nn.Sequential(nn.Linear(64, width), nn.Tanh(), *square, nn.Linear(width, 10))
    return Problem(model, (torch.randn(num_samples, 64), torch.randint(0, 10, (num_samples,))), "cross-entropy")


def work(name: str, mode: str, repeats: int) -> dict[str, Any] | None:
    """What one rank measures; the first one's numbers are told."""
    torch.set_num_threads(1)
    reuse_freed_pages()
    cluster = join(TIMEOUT)
    problem, batch_size = problem_of(name), MODELS[name][3]
    options: dict[str, Any] = {"batch_size": batch_size, "mode": mode, "form": "torch", "memory_budget": 2**33}
    operator = Hessian(problem, cluster=cluster, **options)
    space, dim = operator.space, operator.space.dim
    _, _, kept = _allocated(lambda: operator.matvec(space.normal(1)))
    lanczos = Lanczos(operator.matvec_in_parts, space, BASIS, (0,))
    keep: Keep = lambda pairs, number: np.arange(number)  # noqa: E731

    def step() -> None:
        lanczos.step(keep)
        cluster.any(False)  # whether to stop, as every run asks

    step()
    before = (cluster.traffic.gathered, cluster.traffic.scattered)
    step()
    passed = cluster.traffic.gathered - before[0], cluster.traffic.scattered - before[1]
    _, peak, _ = _allocated(step)

    alone = Hessian(problem, **options)
    own = VectorSpace(dim, space.dtype, space.device)
    rows, vector, whole, one = own.zeros(4), own.normal(2), own.zeros(), torch.zeros(1)
    alone.matvec(vector)  # makes the graphs that are kept

    def orthogonalize() -> None:
        vector.sub_(own.combined(own.coefficients(rows, vector), rows))

    found, ratios = [], []
    for _ in range(repeats):
        cluster.barrier()
        undisturbed = _seconds(lambda: alone.matvec(vector)) if cluster.is_first else 0.0
        product, row = (_slowest(cluster, run) for run in (lambda: alone.matvec(vector), orthogonalize))
        sum_seconds, latency = _seconds(lambda: cluster.sum(whole)), _seconds(lambda: cluster.sum(one))
        pair_seconds = _seconds(lambda: space.reduced(space.whole(space.part(whole))))
        cluster.barrier()
        rows_met, seconds = lanczos.size, _seconds(step)
        model = ClusterModel(
            num_params=dim,
            itemsize=space.dtype.itemsize,
            num_samples=problem.num_samples,
            product_seconds=product,
            ranks=cluster.size,
            bandwidth=2 * (cluster.size - 1) / cluster.size * whole.nbytes / pair_seconds if cluster.size > 1 else 1.0,
            latency=latency,
            row_seconds=row / len(rows),
            rows_met=rows_met,
            basis_vectors=len(lanczos.basis),
            batch_size=batch_size,
            graph_bytes_per_sample=operator.execution.calibration.graph_bytes_per_sample,
            graph_budget=operator.execution.graph_budget,
            keeps_graphs=mode == "kept",
            largest_module=max(p.numel() for p in problem.parameters.values()),
        )
        forecast = model.seconds
        ratios.append(seconds / forecast.total if cluster.is_first else 0.0)
        sharing, pair = product / max(undisturbed, 1e-9), pair_seconds / sum_seconds
        parts = [forecast.compute, forecast.traffic, forecast.latency, forecast.vectors]
        found.append([seconds, *parts, model.bandwidth, sharing, pair])
    cluster.close()
    if not cluster.is_first:
        return None
    medians = [statistics.median(each) for each in zip(*found, strict=True)]
    held = model.bytes
    return {
        "model": name,
        "num_params": dim,
        "mode": mode,
        "ranks": cluster.size,
        "cores": os.cpu_count(),
        **dict(zip(NAMES, medians, strict=True)),
        "ratio": statistics.median(ratios),
        "ratios": [min(ratios), max(ratios)],
        "gathered": [passed[0], model.gathered_bytes],
        "scattered": [passed[1], model.scattered_bytes],
        "basis": [lanczos.basis.nbytes, held.basis],
        "working": [peak, held.working + (held.graphs if mode == "fresh" else 0)],
        "graphs": [kept, held.graphs if mode == "kept" else 0],
    }


def _slowest(cluster: Solo, run: Callable[[], object]) -> float:
    """Seconds of the rank that takes longest, all of them running at the same time."""
    cluster.barrier()
    return cluster.most(round(_seconds(run) * 1e9)) / 1e9


def _seconds(run: Callable[[], object]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def _allocated(run: Callable[[], object]) -> tuple[object, int, int]:
    """The result, the most bytes that torch allocated beyond those at the start, and those that stay without it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = run()
    recorded = profiler.profiler
    assert recorded is not None and recorded.kineto_results is not None
    events = [event for event in recorded.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda each: each.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return result, peak, held - (result.nbytes if isinstance(result, torch.Tensor) else 0)


def measure(name: str, mode: str, ranks: int, repeats: int) -> dict[str, Any]:
    """Starts the ranks, waits for them, and ends those that do not come to their end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)} if ranks > 1 else {}
    command = [sys.executable, __file__, "--work", f"{name},{mode}", "--repeats", str(repeats)]
    processes = []
    for rank in range(ranks):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if ranks > 1 else {}
        variables = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "KINETO_LOG_LEVEL": "99",
            "PYTHONWARNINGS": "ignore",
            **group,
            **own,
        }
        processes.append(subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True))
    until = time.monotonic() + TIMEOUT
    try:
        outputs = [process.communicate(timeout=max(1.0, until - time.monotonic()))[0] for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
    row: dict[str, Any] = json.loads(outputs[0].splitlines()[-1])
    return row


HEADER = (
    "model", "mode", "ranks", "seconds a step", "computed", "compute", "traffic", "latency", "vectors", "ratio",
    "GB/s", "over all-reduce", "sharing", "MB passed", "MB basis", "MB working", "ratio", "MB graphs", "ratio",
)  # fmt: skip


def line(row: dict[str, Any]) -> list[str]:
    """A row of the table; bytes as they were measured, with their ratio to the computed ones."""
    parts = [row[name] for name in ("compute", "traffic", "latency", "vectors")]
    passed, basis = [sum(pair) for pair in zip(row["gathered"], row["scattered"], strict=True)], row["basis"]
    exact = [
        f"{pair[0] / 1e6:.2f}" + ("" if pair[0] == pair[1] else f" ({pair[1] / 1e6:.2f})") for pair in (passed, basis)
    ]

    def bytes_and_ratio(pair: list[int]) -> list[str]:
        return [f"{pair[0] / 1e6:.2f}", f"{pair[0] / pair[1]:.2f}"] if pair[1] else ["-", "-"]

    return [
        f"{row['num_params']:,}", row["mode"], str(row["ranks"]), f"{row['seconds']:.4f}", f"{sum(parts):.4f}",
        *[f"{part:.4f}" for part in parts],
        f"{row['ratio']:.2f} ({row['ratios'][0]:.2f} to {row['ratios'][1]:.2f})",
        f"{row['bandwidth'] / 1e9:.2f}" if row["ranks"] > 1 else "-",
        f"{row['pair']:.2f}" if row["ranks"] > 1 else "-",
        f"{row['sharing']:.2f} ({max(1, row['ranks'] / row['cores']):.0f})",
        *exact, *bytes_and_ratio(row["working"]), *bytes_and_ratio(row["graphs"]),
    ]  # fmt: skip


def main() -> None:
    """Prints a line a row of a table in Markdown, as they come."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=";".join(MODELS))
    parser.add_argument("--ranks", default="1,2,4")
    parser.add_argument("--modes", default=";".join(MODES))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        name, mode = args.work.split(",")
        found = work(name, mode, args.repeats)
        if found is not None:
            print(json.dumps(found))
        return
    rows = []
    for words in (HEADER, ["---:"] * len(HEADER)):
        print("| " + " | ".join(words) + " |", flush=True)
    for name in args.models.split(";"):
        for mode in args.modes.split(";"):
            for ranks in map(int, args.ranks.split(",")):
                rows.append(measure(name, mode, ranks, args.repeats))
                print("| " + " | ".join(line(rows[-1])) + " |", flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
