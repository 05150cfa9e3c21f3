"""What a file or folder of data looks like from outside: its kind, a line or two, and the flags that read it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from curvtool.problem.sources import images, tables
from curvtool.words import counted

_TOKEN_SUFFIXES = {".bin", ".tokens"}
_LONGEST_LINE = 2000


@dataclass(frozen=True)
class Look:
    """Attributes:
    format: a short name.
    description: what it is, in words.
    notes: what shows without reading it whole.
    flags: those that read it.
    """

    format: str
    description: str
    notes: list[str]
    flags: str = ""


def look_at(path: Path) -> Look | None:
    """The look of tokens, a table, text, or a folder of images or of `save_to_disk`; None for anything else."""
    try:
        if path.is_dir():
            return _look_at_folder(path)
        if not path.is_file():
            return None
    except (OSError, ValueError):  # a name that no file can have
        return None
    if path.suffix in _TOKEN_SUFFIXES:
        size = path.stat().st_size
        counts = f"{counted(size // 2, 'token')} as uint16, {size // 4:,} as uint32"
        return Look("tokens", "a row of numbers (tokens?)", [counts], " --sequence-length N --token-dtype uint16")
    if path.suffix in tables.SUFFIXES:
        notes = [f"first line: {_first_line(path)}"] if path.suffix in {".csv", ".tsv", ".jsonl"} else []
        return Look(path.suffix[1:], f"a table ({path.suffix}), read with the extra data", notes)
    if path.suffix == ".txt":
        return Look("text", "text", [f"first line: {_first_line(path)}"], " --tokenizer FOLDER")
    return None


def _look_at_folder(path: Path) -> Look | None:
    if tables.is_saved_dataset(path):
        splits = sorted(item.name for item in path.iterdir() if item.is_dir() and tables.is_saved_dataset(item))
        notes = [f"splits: {', '.join(splits)}"] if splits else []
        return Look("datasets", "a data set that datasets saved", notes, f" --split {splits[0]}" if splits else "")
    files = list(islice(images.image_files(path), 100_000))
    if not files:
        return None
    classes = sorted({file.relative_to(path).parts[0] for file in files if file.parent != path})
    told = (
        f", {counted(len(classes), 'class')}: {', '.join(classes[:8])}{', …' if len(classes) > 8 else ''}"
        if classes
        else ""
    )
    return Look("images", "a folder of images", [f"{counted(len(files), 'image')}{told}"], " --image-size N")


def _first_line(path: Path) -> str:
    with path.open("rb") as file:
        return file.readline(_LONGEST_LINE).decode(errors="replace").strip()[:200]
