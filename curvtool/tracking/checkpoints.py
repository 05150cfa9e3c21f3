"""The checkpoints of a training run, in the order of their steps."""

from __future__ import annotations

import glob
import re
from pathlib import Path

from curvtool.errors import LoadError, UsageError

_SUFFIXES = {".pt", ".pth", ".ckpt", ".safetensors", ".pkl", ".bin"}


def _offered() -> str:
    """A pattern of what lies in the working folder, else an example."""
    here = sorted({path.suffix for path in Path().glob("*") if path.suffix in _SUFFIXES and path.is_file()})
    if here:
        return f"for the files of this folder: curvtool track '*{here[0]}'"
    return "a pattern that matches files, in quotes, as in curvtool track 'runs/*/step_*.pt'"


def found_by(pattern: str | None, shard: str | None = None) -> list[Path]:
    """The files or folders of a pattern, one run after the other, each in the order of its steps.

    Args:
        pattern: as `runs/*/step_*.pt`; several with commas.
        shard: `i/n`, for the i-th of n consecutive parts (from 0).

    Raises:
        LoadError: CT010, there are none.
        UsageError: CT001, no such part.
    """
    given = [part.strip() for part in (pattern or "").split(",") if part.strip()]
    names = sorted({name for part in given for name in glob.glob(part, recursive=True)})  # noqa: PTH207
    if not names:
        raise LoadError(
            "CT010",
            f"no checkpoints at {pattern}" if pattern else "no checkpoints given",
            expected="files such as step_100.pt",
            received="none",
            remedy=_offered(),
        )
    paths = sorted(map(Path, names), key=lambda path: (str(path.parent), _numbers(path), path.name))
    if shard is None:
        return paths
    found = re.fullmatch(r"(\d+)/(\d+)", shard)
    of = int(found[2]) if found is not None and int(found[2]) else 4
    if found is None or not int(found[1]) < int(found[2]):
        raise UsageError(
            "CT001",
            f"no such part {shard!r}",
            expected="I/N, with I from 0 to N - 1",
            received=shard,
            remedy=f"--shard 0/{of}; in a Slurm array from 0 to {of - 1}: --shard $SLURM_ARRAY_TASK_ID/{of}",
        )
    part, num = int(found[1]), int(found[2])
    return paths[part * len(paths) // num : (part + 1) * len(paths) // num]


def step_of(path: Path) -> int | None:
    """The last number in a file's name."""
    numbers = _numbers(path)
    return numbers[-1] if numbers else None


def _numbers(path: Path) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", path.stem)]
