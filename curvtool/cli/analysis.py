"""The commands of the analyses, one a kind, and those of several; each made with its options when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from functools import partial
from typing import Any

import typer
from typer.core import TyperGroup

from curvtool import registry
from curvtool.cli import run, track
from curvtool.cli.once import Once
from curvtool.cli.options import Output, with_options

PANEL = "Analyses"
_OF_SEVERAL = {"run": (run.run, run.command), "track": (track.track, track.command)}  # for its help, and its options


def command_of(kind: str) -> Callable[..., None]:
    """The command of a kind of analysis: its settings are the options, their docstring is the help."""
    settings = registry.settings_of(kind)

    def command(flags: dict[str, Any], output: Output) -> None:
        from curvtool.cli.execute import execute

        execute(kind, flags, output)

    command.__name__, command.__doc__ = kind, settings.__doc__
    return with_options(settings)(command)


class _Known(MutableMapping[str, Any]):
    """Commands by name: those of the registered kinds first, then those of several, each built when it is taken out.

    Args:
        others: the commands that are no analyses.
    """

    def __init__(self, others: MutableMapping[str, Any]) -> None:
        self.others = others
        self.without_options = False  # the help lists the commands, and shows the options of none

    def __getitem__(self, name: str) -> Any:
        if name in _OF_SEVERAL:
            help_of, made = _OF_SEVERAL[name][0].__doc__, _OF_SEVERAL[name][1]
        elif name in registry.kinds():
            help_of, made = registry.settings_of(name).__doc__, partial(command_of, name)
        else:
            return self.others[name]
        own = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)
        if self.without_options:
            own.command(name, rich_help_panel=PANEL, help=help_of)(_nothing)
        else:
            own.command(name, cls=Once, rich_help_panel=PANEL)(made())
        return typer.main.get_command(own)

    def __setitem__(self, name: str, command: Any) -> None:
        self.others[name] = command

    def __delitem__(self, name: str) -> None:
        del self.others[name]

    def __iter__(self) -> Iterator[str]:
        yield from registry.kinds()
        yield from _OF_SEVERAL
        yield from self.others

    def __len__(self) -> int:
        return len(registry.kinds()) + len(_OF_SEVERAL) + len(self.others)


class Commands(TyperGroup):
    """The program's commands."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = self._known = _Known(self.commands)

    def list_commands(self, ctx: Any) -> list[str]:
        """The names, in the order of the help."""
        return list(self._known)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Writes the help."""
        self._known.without_options = True
        super().format_help(ctx, formatter)
        self._known.without_options = False


def _nothing() -> None:
    pass
