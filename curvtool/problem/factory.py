"""References to a user's own code, as `package.module:callable` or `package.module:Class.method`."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from curvtool.errors import LoadError, UsageError, suggest
from curvtool.problem.checkpoints.hugging_face import import_extra, make_timm


def is_reference(text: str) -> bool:
    """Whether the text reads as `package.module:callable` (a path with a colon in it does not)."""
    module, colon, attribute = text.partition(":")
    return bool(colon) and all(part.isidentifier() for path in (module, attribute) for part in path.split("."))


def file_of(reference: str) -> Path | None:
    """The file of the module that a reference names, once it was imported; None where it has none."""
    module = sys.modules.get(reference.partition(":")[0])
    path = getattr(module, "__file__", None)
    return Path(path) if path else None


def resolve(reference: str, what: str = "factory", folder: Path | None = None) -> Callable[..., Any]:
    """Imports what `reference` names; the working folder, and `folder` after it, are importable.

    Raises:
        UsageError: CT001, not of the form `package.module:callable`.
        LoadError: CT013, the module or the attribute cannot be imported or is not callable.
    """
    if not is_reference(reference):
        raise UsageError(
            "CT001",
            f"the {what} {reference!r} is not a reference to code",
            expected="package.module:callable, as models:resnet20 for resnet20() in ./models.py",
            received=reference,
            remedy=f"--{what} {Path(reference).stem or 'models'}:NAME" if what == "factory" else "add :NAME",
        )
    module_name, _, attribute = reference.partition(":")
    for place in [folder.resolve() if folder else None, Path.cwd()]:
        if place and str(place) not in sys.path:
            sys.path.insert(0, str(place))
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        if module_name == missing or module_name.startswith(missing + "."):
            nearby = sorted(p.stem for p in Path.cwd().glob("*.py")) or ["no .py file in this folder"]
            remedy = f"run from the folder that holds {missing}.py ({suggest(missing, nearby)}), or set PYTHONPATH"
            if module_name.endswith(".py"):
                remedy = f"without .py: --{what} {module_name.removesuffix('.py')}:{attribute}"
        else:
            remedy = f"pip install {missing}"
        raise LoadError(
            "CT013",
            f"cannot import the {what} {reference!r}",
            expected=f"an importable module {module_name}",
            received=str(error),
            remedy=remedy,
        ) from error
    except (Exception, SystemExit) as error:  # the user's module fails in its own way: say where
        raise LoadError(
            "CT013",
            f"the module {module_name} of the {what} fails on import",
            received=f"{type(error).__name__}: {error}",
            remedy=f"python -c 'import {module_name}'",
        ) from error
    path = module_name
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = [n for n, value in vars(found).items() if not n.startswith("_") and callable(value)]
            raise LoadError(
                "CT013",
                f"{path} has no {part!r}",
                expected=f"the {what} {reference}",
                received=f"no such name in {path}",
                remedy=suggest(part, public),
            )
        found, path = getattr(found, part), f"{path}.{part}"
    if not callable(found):
        raise LoadError(
            "CT013",
            f"the {what} {reference} is not callable",
            expected="a function or a class",
            received=type(found).__name__,
            remedy="name a function that returns it",
        )
    return found


def call(function: Callable[..., Any], reference: str, arguments: dict[str, Any], what: str = "factory") -> Any:
    """Calls a user's factory; what it raises becomes CT016 with the exception's own words and place."""
    try:
        return function(**arguments)
    except (Exception, SystemExit) as error:
        # the innermost line of the user's own code; none where the call itself did not fit
        places = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
        own = [f" ({file}:{line})" for file, line in places if file != __file__ and "site-packages" not in file]
        given = ", ".join(f"{k}={v!r}" for k, v in arguments.items()) or "no arguments"
        raise LoadError(
            "CT016",
            f"the {what} {reference} failed",
            expected=f"{reference}({given}) to return",
            received=f"{type(error).__name__}: {error}{own[-1] if own else ''}",
            remedy="pass its arguments with -K name=value (values are read as JSON)"
            if what == "factory"
            else f"mend {reference}; it is called {'without arguments' if not arguments else 'with these arguments'}",
        ) from error


def make_module(reference: str, arguments: dict[str, Any], folder: Path | None, seed: int) -> nn.Module:
    """The model that the user's factory makes, its random draws seeded and the global generator left as it was.

    Raises:
        LoadError: CT016, the factory fails or returns something else; and those of `resolve`.
    """
    if reference.startswith("timm:") and not hasattr(import_extra("timm", "timm"), reference.partition(":")[2]):
        return make_timm(reference.partition(":")[2], arguments)
    factory = resolve(reference, "factory", folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = call(factory, reference, arguments)
    if not isinstance(made, nn.Module):
        raise LoadError(
            "CT016",
            f"the factory {reference} returned no module",
            expected="a torch.nn.Module",
            received=type(made).__name__,
            remedy="return the model from the factory",
        )
    return made
