#!/usr/bin/env python
"""The price of a product in gradients: every way to run it, on every model, in turn within one run.

    python scripts/bench/products.py [MODEL …] [--ways "kept*;fresh*"] [--repeats 7] [--json FILE]

A gradient is one forward and one backward pass of the unmodified model on the same batch. Each row is the median over
the repeats of a product's time over that of the gradient measured just before it, with the lowest and highest ratio;
`bare` rows are the same products by a plain autograd loop, from one flat vector to another, as solvers want them. Where
the way is such a loop's, the tool's own overhead over it is told too, the two timed in turn. `distance` is that from
torch's own reverse-over-reverse product. The first calls, in which a compilation is made and checked, are timed by
themselves.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path

import torch
from models import WORKS, Work, make
from torch.autograd import grad
from torch.nn.attention import SDPBackend, sdpa_kernel

from curvtool import GaussNewton, Hessian, Problem
from curvtool.operators.calibration import MODES
from curvtool.operators.compiled import NUM_CHECKS
from curvtool.operators.memory import reuse_freed_pages


def ways(work: Work, matrices: list[str]) -> dict[str, Callable[[], torch.Tensor]]:
    """The products to time, by name; each gives A v for the same v."""
    # a copy: the gradient that is timed before each product leaves its own tensors in the caches
    work = copy.deepcopy(work)
    parameters = list(work.model.parameters())
    generator = torch.Generator().manual_seed(1)
    flat = torch.cat([torch.randn(p.shape, generator=generator).flatten() for p in parameters])
    sizes = [p.numel() for p in parameters]
    with sdpa_kernel(SDPBackend.MATH):
        kept = grad(work.loss(), parameters, create_graph=True)

    def image(gradient: Sequence[torch.Tensor], keep: bool) -> torch.Tensor:
        vector = [part.view_as(p) for part, p in zip(flat.split(sizes), parameters, strict=True)]
        return torch.cat([part.flatten() for part in grad(gradient, parameters, vector, retain_graph=keep)])

    def bare_kept() -> torch.Tensor:
        return image(kept, keep=True)

    def bare_fresh() -> torch.Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            return image(grad(work.loss(), parameters, create_graph=True), keep=False)

    found: dict[str, Callable[[], torch.Tensor]] = {"bare kept": bare_kept, "bare fresh": bare_fresh}
    problem = Problem(work.model, (work.inputs, work.targets))
    for matrix, operator in (("hessian", Hessian), ("ggn", GaussNewton)):
        if matrix not in matrices:
            continue
        matrix = operator(problem, batch_size=1, form="torch", mode="fresh").make_matrix(problem)
        for form in [form for form, changes in matrix.rewritable(range(1)).items() if changes]:
            for mode in MODES[1:]:
                made = operator(problem, batch_size=len(work.inputs), mode=mode, form=form, memory_budget=2**36)

                def product(made: Hessian | GaussNewton = made) -> torch.Tensor:
                    return made @ flat

                name = f"{mode}" + ("" if form == "torch" else f", {form}")
                found[name if matrix == "hessian" else f"ggn {name}"] = product
    return found


def measure(name: str, repeats: int, matrices: list[str], wanted: list[str]) -> list[dict[str, object]]:
    """A row a way."""
    work = make(name)
    parameters = list(work.model.parameters())

    def gradient() -> object:
        return grad(work.loss(), parameters)

    rows = []
    references: dict[bool, torch.Tensor] = {}
    all_ways = ways(work, matrices)
    for label, run in all_ways.items():
        if not label.startswith("bare") and not any(fnmatch(label, pattern) for pattern in wanted):
            continue
        try:
            begin = time.perf_counter()
            for _ in range(NUM_CHECKS):
                first = run()
            first_seconds = time.perf_counter() - begin
            first = run()
            gradient()
            bare = all_ways.get(f"bare {label}")
            ratios, seconds, over_bare = [], [], []
            for _ in range(repeats):
                unit, own = _seconds(gradient), _seconds(run)
                seconds.append(own)
                ratios.append(own / unit)
                if bare is not None:  # after a gradient as well: what ran before has filled the caches
                    gradient()
                    over_bare.append(own / _seconds(bare) - 1)
        except Exception as error:
            rows.append({"model": name, "way": label, "error": str(error).splitlines()[0][:120]})
            continue
        reference = references.setdefault(label.startswith("ggn"), first)
        distance = float((first - reference).norm() / reference.norm())
        rows.append(
            {
                "model": name,
                "num_params": sum(p.numel() for p in parameters),
                "way": label,
                "gradients": statistics.median(ratios),
                "lowest": min(ratios),
                "highest": max(ratios),
                "seconds": statistics.median(seconds),
                "first_seconds": first_seconds,
                "overhead": statistics.median(over_bare) if over_bare else None,
                "distance": distance,
            }
        )
        print(_line(rows[-1]), flush=True)
    return rows


def _seconds(run: Callable[[], object]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def _line(row: dict[str, object]) -> str:
    return (
        f"{row['model']:<20}{row['way']:<26}{row['gradients']:>7.2f}  "
        f"({row['lowest']:.2f} to {row['highest']:.2f})  {row['seconds']:.4f} s  {row['distance']:.1e}"
        f"  first {row['first_seconds']:.1f} s"
        + ("" if row["overhead"] is None else f"  overhead {row['overhead']:.1%}")
    )


def main() -> None:
    """Prints a line a row; writes them all with the machine they were measured on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=[m for m in WORKS if m != "gpt-124m"])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--matrices", default="hessian,ggn")
    parser.add_argument("--ways", default="*", help="shell patterns of the ways, separated by ;")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    reuse_freed_pages()  # for the gradients too
    rows = [
        row
        for model in args.models
        for row in measure(model, args.repeats, args.matrices.split(","), args.ways.split(";"))
    ]
    if args.json:
        machine = {
            "processor": platform.processor() or platform.machine(),
            "threads": args.threads,
            "torch": torch.__version__,
        }
        args.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
