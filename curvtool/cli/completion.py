"""What the shell offers when Tab is pressed: names of losses, parameters, arrays, models and explanations.

Files are read as `curvtool inspect` does, so nothing in them is executed; what cannot be read offers nothing.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from curvtool.errors import CurvtoolError, UsageError, suggest

if TYPE_CHECKING:
    from curvtool.report.model import Inspection

Completion = Callable[..., list[str]]
Context = typer.Context


def one_of(flag: str, choices: Iterable[str]) -> Callable[[str | None], str | None]:
    """A check of an option's value, for `typer.Option(callback=…)`; it raises CT001 where there is no such choice."""
    known = tuple(choices)

    def check(value: str | None) -> str | None:
        if value is not None and value not in known:
            raise UsageError(
                "CT001", f"unknown value for {flag}", expected=", ".join(known), received=repr(value),
                remedy=suggest(value, known),
            )  # fmt: skip
        return value

    return check


def words(choices: Iterable[str]) -> Completion:
    """Those that begin as what was typed."""
    known = tuple(choices)

    def complete(incomplete: str) -> list[str]:
        return _begun(known, incomplete)

    return complete


def models(incomplete: str) -> list[str]:
    """The embedded example; the shell itself offers files."""
    return _begun(["demo:digits"], incomplete) if incomplete else []


def losses(incomplete: str) -> list[str]:
    """The losses that have a name."""
    from curvtool.vocabulary import LOSSES

    return _begun(LOSSES, incomplete)


def parameters(ctx: Context, incomplete: str) -> list[str]:
    """The checkpoint's parameters, and each of its modules with a star."""
    names = _parameters_of(ctx)
    modules = dict.fromkeys(name.rpartition(".")[0] + ".*" for name in names if "." in name)
    return _begun([*modules, *names], incomplete)


def modules(ctx: Context, incomplete: str) -> list[str]:
    """The modules that the checkpoint's parameters belong to, and those around them."""
    names = [name.split(".")[:-1] for name in _parameters_of(ctx)]
    return _begun(dict.fromkeys(".".join(name[:i]) for name in names for i in range(1, len(name) + 1)), incomplete)


def arrays(ctx: Context, incomplete: str) -> list[str]:
    """The arrays of the data's file."""
    found = _inspected(ctx.params.get("source") or _setting("data", "source"))
    return _begun([tensor.name for tensor in found.tensors], incomplete) if found is not None else []


def factories(incomplete: str) -> list[str]:
    """`module:name` of the models in the working folder's Python files."""
    from curvtool.setup.starter import models_in

    return _begun(models_in(Path.cwd()), incomplete)


def explained(incomplete: str) -> list[str]:
    """Codes and concepts."""
    from curvtool.render.explanations import explanations

    return [name for name in explanations() if name.lower().startswith(incomplete.lower())]


def _parameters_of(ctx: Context) -> list[str]:
    """With and without what wrappers put before the names: the code, which tells, is not run."""
    argument = ctx.params.get("model") or next(iter(ctx.args), None)  # not parsed while an option is completed
    found = _inspected(argument or _setting("model", "checkpoint"))
    names = dict.fromkeys(tensor.name for tensor in found.tensors) if found is not None else {}
    for prefix in ("module.", "_orig_mod.", "model."):
        names |= dict.fromkeys(name.removeprefix(prefix) for name in names)
    return list(names)


def _begun(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def _setting(section: str, name: str) -> Any:
    """Of ./curvtool.toml."""
    with suppress(OSError, tomllib.TOMLDecodeError, UnicodeDecodeError):
        return tomllib.loads(Path("curvtool.toml").read_text(encoding="utf-8")).get(section, {}).get(name)
    return None


def _inspected(path: Any) -> Inspection | None:
    if not isinstance(path, str) or not Path(path).exists():
        return None
    from curvtool.setup.inspection import inspect_file

    with suppress(CurvtoolError, OSError):
        return inspect_file(Path(path))
    return None
