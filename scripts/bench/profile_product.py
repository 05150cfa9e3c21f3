#!/usr/bin/env python
"""Where the time of a product goes: the operations of kept products on a model, by their own time.

    python scripts/bench/profile_product.py [MODEL …] [--mode kept] [--operator hessian] [--repeats 5]

The profiles of the two slowest parts, a GPT's and ResNet20's kept products, are kept beside this file in `profiles/`.
"""

from __future__ import annotations

import argparse

import torch
from models import make
from torch.profiler import ProfilerActivity, profile

from curvtool import GaussNewton, Hessian, Problem
from curvtool.operators.memory import reuse_freed_pages


def main() -> None:
    """A table a model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["gpt-1m", "resnet20"])
    parser.add_argument("--mode", default="kept")
    parser.add_argument("--operator", choices=("hessian", "ggn"), default="hessian")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    reuse_freed_pages()
    for name in args.models:
        work = make(name)
        kind = Hessian if args.operator == "hessian" else GaussNewton
        matrix = kind(Problem(work.model, (work.inputs, work.targets)), batch_size=len(work.inputs), mode=args.mode)
        vector = matrix.space.signs(0)[0]
        matrix @ vector
        with profile(activities=[ProfilerActivity.CPU]) as found:
            for _ in range(args.repeats):
                matrix @ vector
        print(f"{name}, {matrix.execution.describe()}, operations {matrix.execution.form}, {args.repeats} products,")
        print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
        print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=15, max_name_column_width=50))


if __name__ == "__main__":
    main()
