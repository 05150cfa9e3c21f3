"""A command that refuses an option given twice where one value counts: the first would be lost in silence."""

from __future__ import annotations

from collections import Counter
from typing import Any

from typer.core import TyperCommand

from curvtool.errors import UsageError


class Once(TyperCommand):
    """A command whose options of one value are given once at most."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parses the words.

        Raises:
            UsageError: CT003, an option of one value stands there twice.
        """
        if not ctx.resilient_parsing:  # not while the shell completes
            _, _, order = self.make_parser(ctx).parse_args(args=list(args))
            given = Counter(parameter.name for parameter in order)
            for parameter in {each.name: each for each in order}.values():
                several = getattr(parameter, "multiple", False) or getattr(parameter, "count", False)
                if given[parameter.name] > 1 and parameter.param_type_name == "option" and not several:
                    names = _names(parameter)
                    used = [at for at, word in enumerate(args) if word.partition("=")[0] in names]
                    flag = args[used[0]].partition("=")[0] if used else max(parameter.opts, key=len)
                    raise UsageError(
                        "CT003",
                        f"{flag} is given {given[parameter.name]} times, and one value counts",
                        expected="it once",
                        received=" ".join(_as_given(args, at, parameter) for at in used),
                        remedy=f"leave out all but one {flag}",
                    )
        return super().parse_args(ctx, args)


def _as_given(args: list[str], at: int, parameter: Any) -> str:
    """The option with its value."""
    alone = "=" in args[at] or getattr(parameter, "is_flag", False)
    return args[at] if alone else " ".join(args[at : at + 2])


def _names(parameter: Any) -> set[str]:
    return {*parameter.opts, *parameter.secondary_opts}
