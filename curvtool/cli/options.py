"""The shared options, expanded from the configuration's classes into each command's signature."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

import typer

from curvtool.config.schema import SECTIONS
from curvtool.config.section import Section, choices_of, flags_of, plain_type, type_hints
from curvtool.errors import UsageError

Format = Literal["table", "json", "csv", "md"]
Color = Literal["auto", "always", "never"]
_PANELS = {"model": "Model", "data": "Data", "loss": "Loss", "params": "Parameters", "compute": "Compute"}
_MAX_METAVAR = 18
_SUFFIXES = {".json": "json", ".csv": "csv", ".md": "md"}


@dataclass(frozen=True)
class Output:
    """Where the result goes, and how loudly."""

    json: str | None = None
    output: Path | None = None
    format: Format = "table"
    color: Color = "auto"
    verbose: int = 0
    quiet: bool = False
    config: str | None = None
    dry_run: bool = False
    strict: bool = False

    def output_format(self) -> str | None:
        """The format of `-o` by its suffix.

        Raises:
            UsageError: CT005, a suffix without a format.
        """
        if self.output is None:
            return None
        if self.output.suffix.lower() not in _SUFFIXES:
            raise UsageError(
                "CT005",
                f"no format for {self.output.name}",
                expected="a name that ends in " + ", ".join(_SUFFIXES),
                received=self.output.suffix or "no suffix",
                remedy=f"-o {self.output.with_suffix('.json')}",
            )
        return _SUFFIXES[self.output.suffix.lower()]


def _output_parameters() -> list[inspect.Parameter]:
    declared: list[tuple[str, Any, Any, tuple[str, ...], dict[str, Any]]] = [
        ("json", str | None, None, ("--json",),
         {"metavar": "PATH|-", "help": "Write the report as JSON; - is stdout, and nothing else goes there."}),
        ("output", Path | None, None, ("--output", "-o"),
         {"metavar": "PATH", "help": "Write the result: .json, .csv or .md."}),
        ("format", Format, "table", ("--format",), {"help": "Of what is printed (default table)."}),
        ("dry_run", bool, False, ("--dry-run",), {"help": "Say what it would do and cost, and stop."}),
        ("strict", bool, False, ("--strict",), {"help": "Exit 4 where a solver did not converge."}),
        ("config", str | None, None, ("--config",),
         {"metavar": "FILE", "help": "Project file; ./curvtool.toml where there is one."}),
        ("verbose", int, 0, ("--verbose", "-v"), {"count": True, "help": "Say more on stderr."}),
        ("quiet", bool, False, ("--quiet", "-q"), {"help": "Only errors on stderr."}),
        ("color", Color, "auto", ("--color",), {"help": "Colours (default auto); NO_COLOR is honoured."}),
    ]  # fmt: skip
    found = []
    for name, kind, default, flags, details in declared:
        option = typer.Option(*flags, rich_help_panel="Output", show_default=False, **details)
        found.append(_keyword(name, Annotated[kind, option], default))
    return found


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _section_parameters(section: type[Section], panel: str) -> list[inspect.Parameter]:
    hints = type_hints(section)
    found = []
    for item in fields(section):
        if item.name == "checkpoint":
            continue  # the argument
        plain = plain_type(hints[item.name])
        default = item.default
        is_shown = isinstance(default, (int, float, str)) and not isinstance(default, bool)
        shown = f" (default {default})" if is_shown else ""
        choices = [str(choice) for choice in choices_of(hints[item.name])]
        is_long = len("|".join(choices)) > _MAX_METAVAR  # it would be broken in the middle of a word
        listed = f" One of {', '.join(choices)}." if is_long else ""
        details: dict[str, Any] = {
            "help": item.metadata["help"] + listed + shown,
            "rich_help_panel": panel,
            "show_default": False,
            "metavar": "WORD" if is_long else item.metadata["metavar"],
        }
        if get_origin(plain) in (list, dict):
            annotation: Any = list[str] | None
        else:
            annotation = plain | None
        found.append(_keyword(item.name, Annotated[annotation, typer.Option(*flags_of(item), **details)], None))
    return found


def with_options(analysis: type[Section]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command `f(model, flags, output)` the analysis' own options and the shared ones."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        help = "Checkpoint file or folder, or demo:digits; left out, the project file's or the embedded example."
        argument = inspect.Parameter(
            "model",
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=None,
            annotation=Annotated[str | None, typer.Argument(metavar="MODEL", help=help, show_default=False)],
        )
        parameters = [argument, *_section_parameters(analysis, "Analysis")]
        for name, section in SECTIONS.items():
            parameters += _section_parameters(section, _PANELS[name])
        output = _output_parameters()
        parameters += output
        names = {p.name for p in output}

        def expanded(**given: Any) -> None:
            from curvtool.config.resolve import parse_arguments

            flags = {name: value for name, value in given.items() if name not in names and name != "model"}
            flags = {name: value for name, value in flags.items() if value is not False}
            for name in ("factory_args", "options"):
                if flags.get(name):
                    flags[name] = parse_arguments(flags[name])
            flags["checkpoint"] = given["model"]
            command(flags, Output(**{name: given[name] for name in names}))

        expanded.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        expanded.__annotations__ = {p.name: p.annotation for p in parameters}
        expanded.__name__, expanded.__doc__ = command.__name__, command.__doc__
        return expanded

    return decorate
