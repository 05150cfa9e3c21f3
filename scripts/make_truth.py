"""Measures how often the intervals of traces and diagonals hold, and writes the tables of curvtool/docs/truth.md.

    python scripts/make_truth.py                    # hours on two cores
    python scripts/make_truth.py --seeds 50         # a first look

The cells are those of tests/statistics/test_coverage_of_traces.py. The file is written anew after every matrix, so that
a run that is stopped leaves what it had measured.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "statistics")]
from test_coverage_of_traces import FAMILIES, METHODS, block_cell, diagonal_cell, trace_cell  # noqa: E402

HEAD = """# How often the stated errors hold

Made by `scripts/make_truth.py` with {seeds} seeds a cell, on matrices of {size} rows, in float64
(`tests/statistics/matrices.py`). A cell has the share of runs whose 95 % interval holds the dense matrix's value, in
percent, and after it the median width over that of a normal interval of the estimates' own spread (traces) or of the
exact variance (blocks, entries). A share of {seeds} runs is itself known to {doubt:.1f} points (one standard error).
`-`: the method came to the exact value.

Every trace run stops itself at rtol 0.1, or after 48 products. Blocks are three diagonal blocks from the same probes.
Entries are those of the diagonal, by 6 to 20 passes.

"""


def cell(held: float, width: float) -> str:
    """As it stands in the table."""
    return f"{100 * held:.1f} (-)" if math.isnan(width) else f"{100 * held:.1f} ({width:.2f})"


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=300)
    parser.add_argument("--out", type=Path, default=ROOT / "curvtool" / "docs" / "truth.md")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    size = next(iter(FAMILIES.values())).shape[-1]
    head = HEAD.format(seeds=chosen.seeds, size=size, doubt=100 * math.sqrt(0.05 * 0.95 / chosen.seeds))
    columns = ["matrix", *METHODS, "blocks", "entries"]
    table = [" | ".join(columns), " | ".join(["---"] * len(columns))]
    for name, terms in FAMILIES.items():
        row = [cell(*trace_cell(terms, method, chosen.seeds)[:2]) for method in METHODS]
        row += [cell(*block_cell(terms, chosen.seeds)), cell(*diagonal_cell(terms, chosen.seeds)[:2])]
        table.append(" | ".join([name, *row]))
        print(table[-1], flush=True)
        chosen.out.write_text(head + "\n".join(f"| {line} |" for line in table) + "\n")


if __name__ == "__main__":
    main()
