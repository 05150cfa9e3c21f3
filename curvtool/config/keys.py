"""Keys of the project file, and variables: every one must be known, as a misspelt one would leave its default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from curvtool import registry
from curvtool.config.schema import SECTIONS
from curvtool.config.section import flags_of
from curvtool.errors import UsageError, suggest


def check_keys(content: Mapping[str, Any], path: Path | None) -> None:
    """Every table and key of the file.

    Raises:
        UsageError: CT002, one is unknown, or in another form.
    """
    for name, value in content.items():
        if name == "analysis":
            _check_analyses(value, path)
        elif name in SECTIONS:
            known = [item.name for item in fields(SECTIONS[name])]
            for key in _table_of(value, name, path):
                if key not in known:
                    raise _unknown(f"{name}.{key}", known, path)
        elif name in registry.kinds():
            raise UsageError(
                "CT002",
                f"unknown key {name!r} in {path}",
                expected="the settings of an analysis in an entry of the list of analyses",
                received=f"[{name}]",
                remedy=f'write [[analysis]] instead, and under it kind = "{name}"',
            )
        else:
            raise _unknown(name, [*SECTIONS, "analysis"], path)


def _check_analyses(value: Any, path: Path | None) -> None:
    if not isinstance(value, list):
        raise UsageError(
            "CT002",
            f"'analysis' in {path} is not a list of tables",
            expected="[[analysis]]",
            received="[analysis]",
            remedy="write [[analysis]] with two brackets",
        )
    for entry in value:
        kind = _table_of(entry, "analysis", path).get("kind")
        if kind is None:
            raise UsageError(
                "CT002",
                f"an [[analysis]] in {path} has no kind",
                expected="one of " + ", ".join(registry.kinds()),
                received=", ".join(entry) or "an empty entry",
                remedy='a line kind = "eigs" under it',
            )
        if kind not in registry.kinds():
            raise UsageError(
                "CT002",
                f"unknown analysis {kind!r} in {path}",
                expected=", ".join(registry.kinds()),
                received=repr(kind),
                remedy=suggest(str(kind), registry.kinds()),
            )
        known = ["kind", *(item.name for item in fields(registry.settings_of(kind)))]
        for key in entry:
            if key not in known:
                raise _unknown(f"analysis.{key}", known, path)


def _table_of(value: Any, name: str, path: Path | None) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return value
    raise UsageError(
        "CT002",
        f"{name!r} in {path} is not a table",
        expected=f"[{name}]",
        received=repr(value),
        remedy=f"write it under a line [{name}]",
    )


def _unknown(key: str, known: list[str], path: Path | None) -> UsageError:
    last = key.rsplit(".", 1)[-1]
    elsewhere = [name for name, each in SECTIONS.items() if last in {item.name for item in fields(each)}]
    return UsageError(
        "CT002",
        f"unknown key {key!r} in {path}",
        expected="a known key",
        received=key,
        remedy=f"{last} belongs under [{elsewhere[0]}]" if elsewhere else suggest(last, known),
    )


def check_variables(environment: Mapping[str, str]) -> None:
    """Every CURVTOOL_ variable.

    Raises:
        UsageError: CT002, one is unknown.
    """
    sections = (*SECTIONS.values(), *map(registry.settings_of, registry.kinds()))
    known = ["CURVTOOL_CONFIG", *(variable_of(item) for section in sections for item in fields(section))]
    for name in environment:
        if name.startswith("CURVTOOL_") and name not in known:
            raise UsageError(
                "CT002",
                f"unknown variable {name}",
                expected="CURVTOOL_ and the flag of a setting in capitals (not those of the output)",
                received=f"{name}={environment[name]}",
                remedy=suggest(name, known),
            )


def variable_of(item: Any) -> str:
    """The variable of a setting."""
    long = [flag.removeprefix("--") for flag in flags_of(item) if flag.startswith("--")]
    return "CURVTOOL_" + (long[0] if long else str(item.name)).upper().replace("-", "_")
