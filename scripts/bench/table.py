#!/usr/bin/env python
"""The table of products for the README, from what `products.py --json` wrote; several files may be given.

    python scripts/bench/table.py products.json …

Of the forms of the operations and the modes of a Gauss-Newton product the fastest stands in the table.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

COLUMNS = {
    "torch, kept": ("bare kept",),
    "curvtool, kept": ("kept",),
    "torch, fresh": ("bare fresh",),
    "curvtool, fresh": ("fresh", "forward"),
    "compiled": ("compiled",),
    "Gauss-Newton": ("ggn fresh", "ggn forward"),
    "its compiled": ("ggn compiled",),
}


def best(rows: list[dict[str, Any]], modes: tuple[str, ...]) -> str:
    """The least gradients of the ways of these modes, in whatever form."""
    found = [row["gradients"] for row in rows if "gradients" in row and row["way"].partition(",")[0] in modes]
    return f"{min(found):.2f}" if found else ""


def main() -> None:
    """Markdown, and the machines below."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    runs = [json.loads(path.read_text()) for path in parser.parse_args().files]
    rows = [row for run in runs for row in run["rows"]]
    print("| model | " + " | ".join(COLUMNS) + " |")
    print("| --- |" + " ---: |" * len(COLUMNS))
    for model in dict.fromkeys(row["model"] for row in rows):
        of_model = [row for row in rows if row["model"] == model]
        print(f"| {model} | " + " | ".join(best(of_model, modes) for modes in COLUMNS.values()) + " |")
    for run in runs:
        print("\nIn gradients, medians: " + ", ".join(f"{key} {value}" for key, value in run["machine"].items()))


if __name__ == "__main__":
    main()
