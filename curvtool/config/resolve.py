"""Fills the configuration: a flag before a variable before the project file before the default."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_origin

from curvtool import registry
from curvtool.config.keys import check_keys, check_variables, variable_of
from curvtool.config.schema import SECTIONS, RunConfig
from curvtool.config.section import AnalysisSettings, Section, plain_type, type_hints
from curvtool.errors import UsageError

PROJECT_FILE = "curvtool.toml"
_PATHS = (("model", "checkpoint"), ("model", "base_model"), ("data", "source"))


def resolve(
    kind: str,
    flags: Mapping[str, Any],
    *,
    config_file: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> RunConfig:
    """The configuration of a run of one analysis.

    Args:
        kind: `eigs`, `trace` or `jacnorm`.
        flags: values by field name; None where the flag was not given.
        config_file: a TOML file; `./curvtool.toml` where there is one, if None.
        environment: variables, `os.environ` if None; `CURVTOOL_BATCH_SIZE` is `--batch-size`.

    Raises:
        UsageError: CT001 a value that makes no sense, CT002 an unknown key, CT008 a file that cannot be read.
    """
    return _resolved([kind], flags, config_file, environment)[0]


def resolve_all(
    flags: Mapping[str, Any],
    *,
    config_file: str | None = None,
    default: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> list[RunConfig]:
    """The configuration of every analysis that a project file lists, in its order.

    Args:
        flags: values by field name, of the settings that all analyses share.
        config_file: as for `resolve`.
        default: the analysis where the file lists none, or there is no file.
        environment: as for `resolve`.

    Raises:
        UsageError: as `resolve`; CT008 too, no analysis is listed.
    """
    return _resolved(None, flags, config_file, environment, default)


def _resolved(
    kinds: list[str] | None,
    flags: Mapping[str, Any],
    config_file: str | None,
    environment: Mapping[str, str] | None,
    default: str | None = None,
) -> list[RunConfig]:
    environment = os.environ if environment is None else environment
    path = _find(config_file, environment)
    content = _read(path) if path else {}
    check_keys(content, path)
    check_variables(environment)
    if flags.get("factory"):  # another factory has other arguments
        content = {**content, "model": {k: v for k, v in content.get("model", {}).items() if k != "factory_args"}}
    sources: dict[str, str] = {}
    parts: dict[str, Any] = {}
    for name, section in SECTIONS.items():
        table = content.get(name, {})
        parts[name] = _fill(section, name, table, flags, environment, str(path), sources)
    tables = content.get("analysis", [])
    listed = [(str(table["kind"]), table) for table in tables]
    if kinds is not None:
        listed = [(kind, next((table for name, table in listed if name == kind), {})) for kind in kinds]
    if not listed and default is not None:
        listed = [(default, {})]
    if not listed:
        raise UsageError(
            "CT008",
            "no analysis is listed" + (f" in {path}" if path else ": there is no project file"),
            expected="a file with one or more [[analysis]]",
            received=str(path) if path else f"no {PROJECT_FILE} here",
            remedy='curvtool run FILE.toml, with lines such as [[analysis]] and kind = "eigs"; or curvtool eigs …',
        )
    folder = str(path.parent) if path else None
    found = []
    for kind, table in listed:
        own = dict(sources)
        analysis: AnalysisSettings = _fill(registry.settings_of(kind), kind, table, flags, environment, str(path), own)
        found.append(RunConfig(**parts, analysis=analysis, sources=own, folder=folder))
    return found


def settings_table(configs: Sequence[RunConfig], defaults: bool = False) -> list[list[str]]:
    """Name, value and source of every setting, those that several analyses share once.

    Args:
        configs: the analyses of one file.
        defaults: also settings that nobody gave.
    """
    rows: dict[str, list[str]] = {}
    for number, config in enumerate(configs, 1):
        for name, source in config.sources.items():
            section, _, key = name.partition(".")
            own = section not in SECTIONS
            label = f"{name} (analysis {number})" if own and len(configs) > 1 else name
            if source != "default" or defaults:
                value = getattr(getattr(config, section, config.analysis), key)
                rows.setdefault(label, [label, "" if value is None else str(value), source])
    return list(rows.values())


def _find(config_file: str | None, environment: Mapping[str, str]) -> Path | None:
    named = config_file or environment.get("CURVTOOL_CONFIG")
    if named:
        path = Path(named)
        if not path.is_file():
            raise UsageError(
                "CT008",
                f"the configuration {path} does not exist",
                expected="a TOML file",
                received="no such file",
                remedy="the path of a file that is there; `curvtool init` writes one",
            )
        return path
    return Path(PROJECT_FILE) if Path(PROJECT_FILE).is_file() else None


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise UsageError(
            "CT008",
            f"{path} cannot be read as TOML",
            expected="key = value, strings in quotes",
            received=str(error),
            remedy="mend that line",
        ) from error


def _fill(
    section: type[Section],
    name: str,
    table: Mapping[str, Any],
    flags: Mapping[str, Any],
    environment: Mapping[str, str],
    path: str,
    sources: dict[str, str],
) -> Any:
    hints = type_hints(section)
    values: dict[str, Any] = {}
    for item in fields(section):
        annotation = hints[item.name]
        variable = variable_of(item)
        if flags.get(item.name) not in (None, [], {}):
            value, source = flags[item.name], "flag"
        elif variable in environment:
            value, source = _from_text(environment[variable], annotation, variable), variable
        elif item.name in table:
            value, source = _from_toml(table[item.name], annotation, f"{name}.{item.name} in {path}"), path
            if (name, item.name) in _PATHS:
                value = _beside(path, value)
        else:
            sources[f"{name}.{item.name}"] = "default"
            continue
        values[item.name] = value
        sources[f"{name}.{item.name}"] = source
    return section(**values)


def _beside(path: str, value: Any) -> Any:
    """A relative file in a project file stands beside it; demo: names and references to code stay as they are."""
    if not isinstance(value, str) or ":" in value or Path(value).is_absolute():
        return value
    return ",".join(str(Path(path).parent / part.strip()) for part in value.split(","))


def _mistyped(where: str, expected: str, value: Any) -> UsageError:
    return UsageError(
        "CT001",
        f"{where} has the wrong type",
        expected=expected,
        received=repr(value),
        remedy=f"a value that reads as {expected}",
    )


def _from_text(text: str, annotation: Any, where: str) -> Any:
    plain = plain_type(annotation)
    try:
        if plain is bool:
            return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False, "": False}[
                text.lower()
            ]
        if plain in (int, float):
            return plain(text)
    except (KeyError, ValueError):
        raise _mistyped(where, plain.__name__, text) from None
    if get_origin(plain) is list:
        return [part.strip() for part in text.split(",") if part.strip()]
    if get_origin(plain) is dict:
        return parse_arguments([part for part in text.split(",") if part])
    return text


def _from_toml(value: Any, annotation: Any, where: str) -> Any:
    plain = plain_type(annotation)
    if plain is float and type(value) is int:
        return float(value)
    if plain is str and type(value) in (int, float):
        return str(value)  # batch_size = 64
    origin = get_origin(plain)
    if origin is list and isinstance(value, str):
        return [value]
    expected = origin if origin in (list, dict) else plain if plain in (int, float, bool, str) else str
    if type(value) is not expected:
        raise _mistyped(where, expected.__name__, value)
    return value


def parse_arguments(pairs: list[str]) -> dict[str, Any]:
    """`name=value` pairs; a value is read as JSON, else taken as a string.

    Raises:
        UsageError: CT001, a pair without `=`.
    """
    arguments: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.strip().isidentifier():
            raise UsageError(
                "CT001",
                f"{pair!r} is no argument",
                expected="name=value",
                received=pair,
                remedy="-K num_classes=10",
            )
        try:
            arguments[name.strip()] = json.loads(text)
        except json.JSONDecodeError:
            arguments[name.strip()] = text
    return arguments
