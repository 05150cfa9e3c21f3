"""The shared options, expanded from the configuration's classes into each command's signature."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, get_origin

import typer

from curvtool.cli import completion
from curvtool.config.schema import SECTIONS
from curvtool.config.section import Section, choices_of, flags_of, parse_bytes, plain_type, type_hints
from curvtool.errors import UsageError

FORMATS, COLORS = ("table", "json", "csv", "md"), ("auto", "always", "never")
Format = Annotated[
    str,
    typer.Option("--format", metavar="|".join(FORMATS), callback=completion.one_of("--format", FORMATS),
                 autocompletion=completion.words(FORMATS), rich_help_panel="Output", show_default=False,
                 help="Format of what is printed (default table)."),
]  # fmt: skip
Color = Annotated[
    str,
    typer.Option("--color", metavar="|".join(COLORS), callback=completion.one_of("--color", COLORS),
                 autocompletion=completion.words(COLORS), rich_help_panel="Output", show_default=False,
                 help="Colours (default auto); NO_COLOR is honoured."),
]  # fmt: skip
_COMPLETIONS = {
    "factory": completion.factories,
    "submodule": completion.modules,
    "input_key": completion.arrays,
    "target_key": completion.arrays,
    "name": completion.losses,
    "include": completion.parameters,
    "exclude": completion.parameters,
}
_PANELS = {"model": "Model", "data": "Data", "loss": "Loss", "params": "Parameters", "compute": "Compute"}
_MAX_METAVAR = 18
_STDOUT = ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")


@dataclass(frozen=True)
class Output:
    """Where the result goes, and how loudly."""

    json: str | None = None
    output: tuple[Path, ...] = ()
    format: str = "table"
    color: str = "auto"
    verbose: int = 0
    quiet: bool = False
    config: str | None = None
    dry_run: bool = False
    ranks: int | None = None
    bandwidth: str | None = None
    strict: bool = False
    state: Path | None = None
    resume: Path | None = None
    checkpoint_seconds: float = 600.0

    def __post_init__(self) -> None:
        if self.json in _STDOUT:  # by another name
            object.__setattr__(self, "json", "-")

    def output_formats(self) -> dict[Path, str]:
        """The files of `-o`, each with the format that its suffix names.

        Raises:
            UsageError: CT005, a suffix without a format, or one that needs an extra.
        """
        from curvtool.render.formats import format_of

        return {path: format_of(path) for path in self.output}

    def bytes_per_second(self) -> float | None:
        """What `--bandwidth` says; None where it was not given.

        Raises:
            UsageError: CT001, no such number; CT003, `--ranks` or `--bandwidth` without `--dry-run`.
        """
        for flag, value in (("--ranks", self.ranks), ("--bandwidth", self.bandwidth)):
            if value is not None and not self.dry_run:
                raise UsageError(
                    "CT003",
                    f"{flag} is for planning alone",
                    expected="--dry-run beside it",
                    received=f"{flag} {value}",
                    remedy=f"--dry-run {flag} {value}; a run has the ranks that torchrun or srun starts",
                )
        if self.ranks is not None and self.ranks < 1:
            raise UsageError(
                "CT001", "no such number of ranks", expected="1 or more", received=str(self.ranks), remedy="--ranks 8"
            )
        if self.bandwidth is None:
            return None
        try:
            found = parse_bytes(self.bandwidth.removesuffix("/s"))
        except UsageError:
            found = 0
        if not found:
            raise UsageError(
                "CT001",
                "no such bandwidth",
                expected="bytes a second, with a unit",
                received=self.bandwidth,
                remedy="--bandwidth 25GiB",
            )
        return float(found)


def _output_parameters() -> list[inspect.Parameter]:
    declared: list[tuple[str, Any, Any, tuple[str, ...], dict[str, Any]]] = [
        ("json", str | None, None, ("--json",),
         {"metavar": "PATH|-", "help": "Write the report as JSON; - is stdout, and nothing else goes there."}),
        ("output", list[Path] | None, None, ("--output", "-o"),
         {"metavar": "PATH", "help": "Write the result: .json, .csv, .md, .html, .png, .svg or .pdf; repeatable."}),
        ("dry_run", bool, False, ("--dry-run",), {"help": "Say what it would do and cost, and stop."}),
        ("ranks", int | None, None, ("--ranks",),
         {"metavar": "R", "help": "With --dry-run: time and memory on R ranks."}),
        ("bandwidth", str | None, None, ("--bandwidth",),
         {"metavar": "SIZE", "help": "With --dry-run: what a rank sends a second, as 50GB (default 25GB)."}),
        ("strict", bool, False, ("--strict",), {"help": "Exit 4 where a solver did not converge or verify disagrees."}),
        ("state", Path | None, None, ("--state",),
         {"metavar": "DIR", "help": "Save here what is needed to go on: at USR1, USR2, TERM (exit 75) and at times."}),
        ("resume", Path | None, None, ("--resume",),
         {"metavar": "DIR", "help": "Go on from the state in this folder, or start afresh; and keep it there."}),
        ("checkpoint_seconds", float, 600.0, ("--checkpoint-seconds",),
         {"min": 0.0, "metavar": "SECONDS", "help": "How often the state is saved (default 600)."}),
        ("config", str | None, None, ("--config",),
         {"metavar": "FILE", "help": "Project file; ./curvtool.toml where there is one."}),
        ("verbose", int, 0, ("--verbose", "-v"), {"count": True, "help": "Say more on stderr; -vv: every step too."}),
        ("quiet", bool, False, ("--quiet", "-q"), {"help": "Only errors on stderr, no warnings."}),
    ]  # fmt: skip
    found = []
    for name, kind, default, flags, details in declared:
        option = typer.Option(*flags, rich_help_panel="Output", show_default=False, **details)
        found.append(_keyword(name, Annotated[kind, option], default))
    return [*found, _keyword("format", Format, "table"), _keyword("color", Color, "auto")]


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
            "metavar": "WORD" if is_long else "|".join(choices) if choices else item.metadata["metavar"],
            "autocompletion": completion.words(choices) if choices else _COMPLETIONS.get(item.name),
        }
        if get_origin(plain) in (list, dict):
            annotation: Any = list[str] | None
        else:
            annotation = (str if choices else plain) | None  # the section itself checks them, and suggests
        names = flags_of(item)
        if plain is bool:  # so that a flag can switch off what the project file switched on
            names = (f"{names[0]}/--no-{names[0].removeprefix('--')}",)
        found.append(_keyword(item.name, Annotated[annotation, typer.Option(*names, **details)], None))
    return found


_MODEL_HELP = "Checkpoint file or folder, or demo:digits; left out, the project file's or the embedded example."


def with_options(
    analysis: type[Section] | None,
    *,
    argument: str = "MODEL",
    help: str = _MODEL_HELP,
    own: Mapping[str, Any] | None = None,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command `f(flags, output)` the analysis' own options and the shared ones.

    Args:
        analysis: whose options; None for a command that takes its analyses from a file.
        argument: the word for the command's argument, which comes as the flag `checkpoint`.
        help: what it is.
        own: further options of the command, annotated, by name.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        argument_ = typer.Argument(metavar=argument, help=help, show_default=False, autocompletion=completion.models)
        first = inspect.Parameter(
            "model",
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=None,
            annotation=Annotated[str | None, argument_],
        )
        parameters = [first, *(_section_parameters(analysis, "Analysis") if analysis is not None else [])]
        parameters += [_keyword(name, annotation, None) for name, annotation in (own or {}).items()]
        for name, section in SECTIONS.items():
            parameters += _section_parameters(section, _PANELS[name])
        output = _output_parameters()
        parameters += output
        names = {p.name for p in output}

        def expanded(**given: Any) -> None:
            from curvtool.config.resolve import parse_arguments

            flags = {name: value for name, value in given.items() if name not in names and name != "model"}
            for name in ("factory_args", "options"):
                if flags.get(name):
                    flags[name] = parse_arguments(flags[name])
            flags["checkpoint"] = given["model"]
            chosen = {name: given[name] for name in names}
            command(flags, Output(**{**chosen, "output": tuple(given["output"] or ())}))

        expanded.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        expanded.__annotations__ = {p.name: p.annotation for p in parameters}
        expanded.__name__, expanded.__doc__ = command.__name__, _unwrapped(command.__doc__ or "")
        return expanded

    return decorate


def _unwrapped(text: str) -> str:
    """Each paragraph on a line of its own, for the help to break it where the terminal ends."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in inspect.cleandoc(text).split("\n\n"))
