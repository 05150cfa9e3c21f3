#!/usr/bin/env python
"""What a process costs before its work: whole commands in turn within one run, medians of seconds.

python scripts/bench/startup.py [--repeats 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TOOL = [sys.executable, "-m", "curvtool"]
BARE = """
import typer

app = typer.Typer()


@app.command()
def one(name: str, count: int = 1):
    'The first command.'


@app.command()
def two(name: str, count: int = 1):
    'The second command.'


app()
"""
COMMANDS = {
    "python": [sys.executable, "-c", "pass"],
    "import torch": [sys.executable, "-c", "import torch"],
    "import curvtool": [sys.executable, "-c", "import curvtool"],
    "a bare Typer application --help": [sys.executable, "-c", BARE, "--help"],
    "curvtool --version": [*TOOL, "--version"],
    "curvtool --help": [*TOOL, "--help"],
    "curvtool eigs --help": [*TOOL, "eigs", "--help"],
    "curvtool eigs demo:digits": [*TOOL, "eigs", "demo:digits"],
    "curvtool trace demo:digits": [*TOOL, "trace", "demo:digits"],
}


def main() -> None:
    """A line a command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(args.repeats + 1):
            for name, command in COMMANDS.items():
                begin = time.perf_counter()
                subprocess.run(command, cwd=folder, check=True, capture_output=True)
                seconds[name].append(time.perf_counter() - begin)
    medians = {name: statistics.median(each[1:]) for name, each in seconds.items()}  # the first round fills the caches
    for name, median in medians.items():
        print(f"{median:8.2f} s  {name}")
    if args.json:
        args.json.write_text(json.dumps(medians, indent=2) + "\n")


if __name__ == "__main__":
    main()
