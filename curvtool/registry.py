"""The analyses: a line a kind. A kind is a folder, and its parts are imported when they are asked for.

    settings.py   SETTINGS: the class of its settings, whose docstring is the help of its command
    record.py     RECORD: the class of its part of the report
    run.py        run(stage, settings): from the settings to the record
    plan.py       need(...): what that would cost
    show.py       its sentences, tables and charts
    facts.py      its numbers, for comparisons, exports and `track`

`curvtool/analyses/contract.py` says what each part holds. Settings, record, show and facts import no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_FOLDERS = {
    "eigs": "curvtool.analyses.eigs",
    "trace": "curvtool.analyses.trace",
    "density": "curvtool.analyses.density",
    "diag": "curvtool.analyses.diag",
    "jacnorm": "curvtool.analyses.jacnorm",
    "check": "curvtool.analyses.check",
    "verify": "curvtool.analyses.verify",
}


def register(kind: str, folder: str) -> None:
    """Adds a kind of analysis: a command, a kind of `run` and `track`, a part of the report.

    Args:
        kind: its name, as a user types it.
        folder: the package that holds its parts, as `package.module`.

    Raises:
        ValueError: there is a kind of that name.
    """
    if _FOLDERS.setdefault(kind, folder) != folder:
        raise ValueError(f"{kind!r} is in {_FOLDERS[kind]} already")


def forget(kind: str) -> None:
    """Takes a registered kind away again."""
    del _FOLDERS[kind]


def kinds() -> list[str]:
    """The names of all kinds, in the order in which they are listed."""
    return list(_FOLDERS)


def folders() -> list[str]:
    """The packages that hold the kinds."""
    return list(_FOLDERS.values())


def part(kind: str, name: str) -> Any:
    """A module of a kind's folder: `settings`, `record`, `run`, `plan`, `show` or `facts`.

    Raises:
        KeyError: there is no such kind.
    """
    return import_module(f"{_FOLDERS[kind]}.{name}")


def settings_of(kind: str) -> Any:
    """The class of a kind's settings.

    Raises:
        KeyError: there is no such kind.
    """
    return part(kind, "settings").SETTINGS


def record_of(kind: str) -> Any:
    """The class of a kind's part of the report.

    Raises:
        KeyError: there is no such kind.
    """
    return part(kind, "record").RECORD
