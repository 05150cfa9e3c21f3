#!/usr/bin/env python
"""How products and time grow: with the samples, with the number of eigenvalues, and with the batch.

    python scripts/bench/growth.py [samples|pairs|batches …] [--repeats 3] [--json FILE] [--plot growth.png]

Of a digits MLP, medians:

- samples: the products to the five largest eigenvalues to 1e-3, and the time of one product in batches of 500 and in
  the batches that the tool chooses, for 1,000 to 64,000 digits, repeated with noise. The plot shows these, and needs
  matplotlib (the extra `plot`).
- pairs: the products to the k largest eigenvalues to 1e-3.
- batches: the time of a product on 8,000 samples by the batch size.
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
PAIRS = (1, 2, 5, 10, 20, 40)
BATCHES = (8, 32, 125, 500, 2000, 8000)


def digits(num_samples: int) -> Problem:
    """So many, with noise."""
    model, x, y, _ = problem("digits")
    return Problem(model, noisy_digits(x, y, num_samples))


def by_samples(num_samples: int, repeats: int) -> dict[str, float]:
    """Products, and seconds of one."""
    problem_of_all = digits(num_samples)
    hessian = Hessian(problem_of_all)
    products = [eigenvalues(hessian, 5, seed=seed).cost.solver_hvps for seed in range(repeats)]
    return {
        "num_samples": num_samples,
        "products": statistics.median(products),
        "seconds_per_product": seconds_of(hessian, repeats),
        "batch_size": hessian.batch_size,
        "seconds_in_batches_of_500": seconds_of(Hessian(problem_of_all, batch_size=500), repeats),
    }


def by_pairs(k: int, repeats: int) -> dict[str, float]:
    """Products, and the seconds that all took."""
    hessian = Hessian(digits(2000))
    costs = [eigenvalues(hessian, k, seed=seed).cost for seed in range(repeats)]
    return {
        "k": k,
        "products": statistics.median(cost.solver_hvps for cost in costs),
        "seconds": statistics.median(cost.seconds for cost in costs),
    }


def by_batches(batch_size: int, repeats: int) -> dict[str, float]:
    """Seconds of a product on kept graphs and afresh."""
    problem_of_all = digits(8000)
    kept, fresh = (Hessian(problem_of_all, batch_size=batch_size, mode=mode) for mode in ("kept", "fresh"))
    return {
        "batch_size": batch_size,
        "seconds_kept": seconds_of(kept, repeats),
        "seconds_fresh": seconds_of(fresh, repeats),
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
    """A line a measurement."""
    ways = {"samples": (by_samples, SIZES), "pairs": (by_pairs, PAIRS), "batches": (by_batches, BATCHES)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=list(ways))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    reuse_freed_pages()
    found: dict[str, list[dict[str, float]]] = {}
    for what in args.what:
        run, sizes = ways[what]
        for size in sizes:
            found.setdefault(what, []).append(run(size, args.repeats))
            print(json.dumps({"what": what, **found[what][-1]}), flush=True)
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")
    if args.plot and "samples" in found:
        plot(found["samples"], args.plot)


if __name__ == "__main__":
    main()
