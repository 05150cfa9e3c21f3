"""States and results as JSON with tensors beside it: data alone, nothing in it can run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from curvtool.estimators.accuracy.norms import NormEstimates
from curvtool.estimators.accuracy.population import OverData, Population
from curvtool.estimators.by_probes import BlockTrace
from curvtool.estimators.cost import Cost
from curvtool.estimators.density_result import DensityResult, Mass
from curvtool.estimators.diagonal import DiagonalResult
from curvtool.estimators.eigenpairs import Certificate, Eigenvalue, EigenvaluesResult, Tolerance
from curvtool.estimators.jacobian_norms import JacobianNormsResult
from curvtool.estimators.trace import TraceResult
from curvtool.linalg.quadrature import Quadrature
from curvtool.operators.preflight import Preflight
from curvtool.pipeline.shared import KnownPairs

_CLASSES: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        BlockTrace, Certificate, Cost, DensityResult, DiagonalResult, Eigenvalue, EigenvaluesResult,
        JacobianNormsResult, KnownPairs, Mass, NormEstimates, OverData, Population, Preflight, Quadrature, Tolerance,
        TraceResult,
    )
}  # fmt: skip
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
        return {"$class": type(value).__name__, "facts": facts}
    if isinstance(value, tuple):
        return {"$tuple": [encode(item, put) for item in value]}
    if isinstance(value, list):
        return [encode(item, put) for item in value]
    if isinstance(value, dict):
        return {"$dict": [[key, encode(item, put)] for key, item in value.items()]}
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
        return _CLASSES[tree["$class"]](**{name: decode(item, get) for name, item in tree["facts"].items()})
    if "$tuple" in tree:
        return tuple(decode(item, get) for item in tree["$tuple"])
    return {key: decode(item, get) for key, item in tree["$dict"]}
