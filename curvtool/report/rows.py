"""A file of JSON lines to which rows are added safely: a line is there as a whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

from pydantic import ValidationError

from curvtool.errors import LoadError, UsageError
from curvtool.report.model import TrackRow


def read_rows(path: Path, mend: bool = True) -> list[TrackRow]:
    """The rows that are there, without a last line that was cut off when its writer ended.

    Args:
        path: the file.
        mend: take that line away from the file too, so that others can be added.

    Raises:
        LoadError: CT062, a line that is no row.
    """
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if mend and len(whole) < len(content):
        with path.open("rb+") as file:
            file.truncate(len(whole))
    rows = []
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            rows.append(TrackRow.model_validate_json(line))
        except ValidationError as error:
            raise LoadError(
                "CT062",
                f"line {number} of {path} is no row of curvtool track",
                expected="a file that curvtool track wrote",
                received="a damaged line",
                remedy=f"take line {number} away; or another file for the rows (-o)",
            ) from error
    return rows


def append_row(path: Path, row: TrackRow) -> None:
    """Adds a line, and waits until it is on the disk.

    Raises:
        UsageError: CT007, it cannot be written; the file is as it was.
    """
    line = (json.dumps(row.model_dump(mode="json"), allow_nan=False) + "\n").encode()
    before = path.stat().st_size if path.exists() else 0
    try:
        with path.open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if path.exists():
            os.truncate(path, before)
        raise UsageError(
            "CT007",
            f"cannot write to {path}",
            expected="a file that can be written to, with room for a row",
            received=error.strerror or str(error),
            remedy="make room; the rows before are there, and the same command goes on after them",
        ) from error
