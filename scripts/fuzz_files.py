"""Coverage-guided fuzzing of what reads files: inspection, loading and data (needs `pip install atheris`).

    python scripts/fuzz_files.py FOLDER -max_total_time=600

Starts from real files of every format. Ends with libFuzzer's report, and at the first thing that is no typed error.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["curvtool", "pickle", "zipfile", "json", "safetensors", "numpy.lib"]):
    from curvtool.errors import CurvtoolError
    from curvtool.problem.checkpoints.load import load_model
    from curvtool.problem.sources.paths import from_path
    from curvtool.setup.inspection import inspect_file

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "problem"))
import fuzz
from hostile import Net

SUFFIXES = [".pt", ".safetensors", ".npz", ".npy", ".json", ".pkl", ".bin"]


def _open(content: bytes, folder: Path) -> None:
    """The first byte says which suffix the rest has; a configuration stands in a folder with an index."""
    suffix = SUFFIXES[content[0] % len(SUFFIXES)]
    path = folder / f"file{suffix}"
    if suffix == ".json":
        path = folder / "folder"
        path.mkdir(exist_ok=True)
        for name in ("config.json", "pytorch_model.bin.index.json"):
            (path / name).write_bytes(content[1:])
    else:
        path.write_bytes(content[1:])
    for way in (inspect_file, lambda p: load_model(p, Net()), lambda p: from_path(str(p))):
        with contextlib.suppress(CurvtoolError):
            way(path)


def main() -> None:
    warnings.simplefilter("ignore")
    corpus = Path(sys.argv[1])
    corpus.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, (seed, content) in enumerate(fuzz._seeds(folder).items()):
            for kind, suffix in enumerate(SUFFIXES):
                if seed.endswith(suffix) or (suffix == ".json" and seed.endswith("metadata")):
                    (corpus / f"seed{number}_{kind}").write_bytes(bytes([kind]) + content)
        atheris.Setup(
            [sys.argv[0], str(corpus), "-max_len=6000", "-rss_limit_mb=6000", "-timeout=30", *sys.argv[2:]],
            lambda content: _open(content, folder) if content else None,
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main()
