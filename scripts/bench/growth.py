#!/usr/bin/env python
"""How products and time grow with the number of samples: the digits repeated with noise, from 1,000 to 64,000.

    python scripts/bench/growth.py [--repeats 3] [--json FILE] [--plot growth.png]

The five largest eigenvalues of a digits MLP to 1e-3: the products that the solver needs, and the time of one product in
batches of 500 and in the batches that the tool chooses, medians. The plot needs matplotlib (the extra `plot`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

from end_to_end import noisy_digits, problem

from curvtool import Hessian, Problem, eigenvalues
from curvtool.operators.memory import reuse_freed_pages

SIZES = (1000, 2000, 4000, 8000, 16000, 32000, 64000)


def measure(num_samples: int, repeats: int) -> dict[str, float]:
    """Products, and seconds of one."""
    model, x, y, _ = problem("digits")
    problem_of_all = Problem(model, noisy_digits(x, y, num_samples))
    hessian = Hessian(problem_of_all)
    products = [eigenvalues(hessian, 5, seed=seed).cost.solver_hvps for seed in range(repeats)]
    return {
        "num_samples": num_samples,
        "products": statistics.median(products),
        "seconds_per_product": seconds_of(hessian, repeats),
        "batch_size": hessian.batch_size,
        "seconds_in_batches_of_500": seconds_of(Hessian(problem_of_all, batch_size=500), repeats),
    }


def seconds_of(hessian: Hessian, repeats: int) -> float:
    """Of one product, the graphs made before."""
    vector = hessian.space.normal(hessian.space.generator(0))
    hessian @ vector
    seconds = []
    for _ in range(max(5, repeats)):
        begin = time.perf_counter()
        hessian @ vector
        seconds.append(time.perf_counter() - begin)
    hessian.execution.release()
    return statistics.median(seconds)


def plot(rows: list[dict[str, float]], path: Path) -> None:
    """Both on logarithmic scales, with a line of slope one."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.6))
    sizes = [row["num_samples"] for row in rows]
    left.semilogx(sizes, [row["products"] for row in rows], "o-")
    left.set(
        xlabel="samples",
        ylabel="products",
        ylim=(0, 1.2 * max(row["products"] for row in rows)),
        title="products to five eigenvalues",
    )
    right.loglog(sizes, [row["seconds_per_product"] for row in rows], "s-", label="batches as chosen")
    seconds = [row["seconds_in_batches_of_500"] for row in rows]
    right.loglog(sizes, seconds, "o-", label="batches of 500")
    right.loglog(sizes, [seconds[-1] * size / sizes[-1] for size in sizes], "--", label="linear")
    right.set(xlabel="samples", ylabel="seconds", title="one product")
    right.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    """A line a size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    reuse_freed_pages()
    rows = []
    for size in SIZES:
        rows.append(measure(size, args.repeats))
        print(json.dumps(rows[-1]), flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")
    if args.plot:
        plot(rows, args.plot)


if __name__ == "__main__":
    main()
