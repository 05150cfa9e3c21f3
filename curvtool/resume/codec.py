"""States and results as JSON with tensors beside it: data alone, nothing in it can run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import torch

from curvtool import registry

Put = Callable[[torch.Tensor | np.ndarray], Any]
Get = Callable[[Any], torch.Tensor | np.ndarray]


def encode(value: Any, put: Put) -> Any:
    """What JSON can hold; `put` takes a tensor or an array and gives what stands in its place."""
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return {"$tensor": put(value)}
    if isinstance(value, np.generic):
        return value.item()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        facts = {field.name: encode(getattr(value, field.name), put) for field in dataclasses.fields(value)}
        return {"$class": f"{type(value).__module__}:{type(value).__name__}", "facts": facts}
    if isinstance(value, tuple):
        return {"$tuple": [encode(item, put) for item in value]}
    if isinstance(value, list):
        return [encode(item, put) for item in value]
    if isinstance(value, dict):
        return {"$dict": [[encode(key, put), encode(item, put)] for key, item in value.items()]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a {type(value).__name__} in a state")


def copied(value: Any) -> Any:
    """The value with tensors and arrays of its own, on the host."""

    def copy(held: torch.Tensor | np.ndarray) -> torch.Tensor | np.ndarray:
        return held.copy() if isinstance(held, np.ndarray) else held.detach().to("cpu", copy=True)

    return decode(encode(value, copy), lambda held: held)


def decode(tree: Any, get: Get) -> Any:
    """The value that `encode` was given; `get` takes what `put` gave."""
    if isinstance(tree, list):
        return [decode(item, get) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if "$tensor" in tree:
        return get(tree["$tensor"])
    if "$class" in tree:
        return _class_of(tree["$class"])(**{name: decode(item, get) for name, item in tree["facts"].items()})
    if "$tuple" in tree:
        return tuple(decode(item, get) for item in tree["$tuple"])
    return {decode(key, get): decode(item, get) for key, item in tree["$dict"]}


def _class_of(name: str) -> type:
    """A dataclass of this package, or of the folder of a registered kind: nothing else is imported.

    Raises:
        LookupError: it is none.
    """
    module, _, called = name.partition(":")
    if any(module == place or module.startswith(place + ".") for place in ("curvtool", *registry.folders())):
        found = getattr(import_module(module), called, None)
        if isinstance(found, type) and dataclasses.is_dataclass(found):
            return found
    raise LookupError(f"{name} is no class of a result")
