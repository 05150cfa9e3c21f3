"""Reading reports back: one run's JSON, or the rows of `track`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from curvtool.errors import CurvtoolError, LoadError
from curvtool.report.model import SCHEMA_VERSION, Report, TrackRow
from curvtool.report.rows import read_rows

_UNFITTING = (ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


def read_report(path: Path) -> Report:
    """A report that `--json` or `-o report.json` wrote.

    Raises:
        LoadError: CT070, there is no such file, or it is no report; CT071, of another version of the schema.
    """
    if path.suffix == ".jsonl" and path.exists():
        raise LoadError(
            "CT070",
            f"{path} holds rows of track, and one report is wanted",
            expected="what --json report.json wrote",
            received="rows (.jsonl)",
            remedy=f"curvtool render {path}; curvtool compare takes the reports of two checkpoints",
        )
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)
    except OSError as error:
        raise _no_report(path, error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise _no_report(path, "a file that is no text") from error
    except RecursionError as error:
        raise _no_report(path, "JSON that is nested too deeply") from error
    except ValueError as error:
        cut_off = (error.args and str(error.args[0]).startswith("Unterminated")) or text.lstrip()[:1] == "{"
        told = "an empty file" if not text.strip() else "JSON that is cut off or damaged" if cut_off else "no JSON"
        raise _no_report(path, told) from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if not isinstance(version, str):
        raise _no_report(path, "JSON of another kind")
    if version.partition(".")[0] != SCHEMA_VERSION.partition(".")[0]:
        raise LoadError(
            "CT071",
            f"{path} is a report of another version",
            expected=f"schema {SCHEMA_VERSION}",
            received=f"schema {version}",
            remedy="the curvtool that wrote it; or run it again with this one",
        )
    if "analyses" not in content:
        raise _no_report(path, f"the result of {content.get('status') or 'another command'}, which holds no analyses")
    if not content["analyses"]:
        raise _no_report(path, "a report without analyses")
    try:
        return Report.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise _no_report(path, f"{where}: {first['msg']}") from error


def read_any(path: str | Path) -> Report | Sequence[TrackRow]:
    """A report; or rows, where the name ends in `.jsonl`.

    Raises:
        LoadError: CT062, CT070, CT071, it is neither.
    """
    path = Path(path)
    if path.suffix != ".jsonl":
        return read_report(path)
    rows = read_rows(path, mend=False) if path.exists() else []
    if not rows:
        raise _no_report(path, "no rows" if path.exists() else "no such file")
    return rows


@contextmanager
def read_from(*paths: Path) -> Iterator[None]:
    """While numbers of these reports are shown or compared: where they do not fit each other, the report is damaged.

    Raises:
        LoadError: CT070, likewise.
    """
    try:
        yield
    except CurvtoolError:
        raise
    except _UNFITTING as error:
        told = (str(error).strip().splitlines() or [""])[0]
        received = f"numbers or words in it that do not fit each other ({type(error).__name__}: {told})"
        raise _no_report(paths[0] if len(paths) == 1 else Path("one of these"), received) from error


def short_names(paths: Sequence[Path]) -> list[str]:
    """As short as tells them apart: the file's name, with as many of its folders as that takes."""
    for length in range(1, 1 + max((len(path.parts) for path in paths), default=1)):
        names = ["/".join(path.with_suffix("").parts[-length:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [f"{place}: {path}" for place, path in enumerate(paths, 1)]


def _no_report(path: Path, received: str) -> LoadError:
    return LoadError(
        "CT070",
        f"{path} is no report of curvtool, or is damaged",
        expected="what --json report.json wrote, or the rows of curvtool track (.jsonl)",
        received=received.splitlines()[0][:200],
        remedy="restore the file, or run the command that wrote it again",
    )
