"""Hessian products as central differences of gradients: a last resort, for models that cannot be differentiated twice.

H v is near (g(theta + h v) - g(theta - h v)) / 2h for a unit v. Too long a step leaves terms of third order and crosses
the kinks of a ReLU, too short a one leaves rounding; so steps are tried, and the one is taken whose product the next
shorter one changes least. That change is the estimate of the products' error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from curvtool.operators.products import Parts

_STEPS = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6, 3e-7)
Gradient = Callable[[Sequence[torch.Tensor]], Parts]  # of the parameters


@dataclass(frozen=True)
class Step:
    """Attributes:
    length: h, along a unit vector.
    error: how far the products of this and the next shorter step are apart, relative.
    """

    length: float
    error: float


@runtime_checkable
class HasDifferences(Protocol):
    """A `BatchMatrix` whose products can be made of gradients: the Hessian's."""

    def difference_product(self, rows: range, vector: Sequence[torch.Tensor], step: float) -> Parts:
        """A_b v in parts."""

    def difference_step(self, rows: range) -> Step:
        """The step for such products, found on these samples."""

    def gradient_bytes(self, rows: range) -> int:
        """What the graph of a gradient of these samples holds."""


def difference_product(
    gradient: Gradient, parameters: Sequence[torch.Tensor], vector: Sequence[torch.Tensor], step: float
) -> Parts:
    """(g(theta + h v) - g(theta - h v)) / 2h in parts, with v scaled to a unit vector and the result back.

    Args:
        gradient: g, of parameters that are leaves.
        parameters: theta.
        vector: v, in parts of the parameters' shapes.
        step: h.
    """
    norm = float(_norm(vector))
    if norm == 0 or not math.isfinite(norm):
        return [torch.zeros_like(part) * norm for part in vector]
    ends = [
        gradient(
            [(p.detach() + (sign * step / norm) * v).requires_grad_() for p, v in zip(parameters, vector, strict=True)]
        )
        for sign in (1.0, -1.0)
    ]
    factor = norm / (2 * step)
    return [
        None if after is None or before is None else (after - before).mul_(factor)
        for after, before in zip(*ends, strict=True)
    ]


def find_step(gradient: Gradient, parameters: Sequence[torch.Tensor], seed: int = 0) -> Step:
    """The step whose products the next shorter one changes least, along the worse of two random vectors."""
    generator = torch.Generator().manual_seed(seed)
    vectors = [[torch.randn(p.shape, generator=generator).to(p) for p in parameters] for _ in range(2)]
    best = Step(_STEPS[0], math.inf)
    last: list[Parts] = []
    for number, length in enumerate(_STEPS):
        found = [difference_product(gradient, parameters, vector, length) for vector in vectors]
        changes = [_change(a, b) for a, b in zip(last, found, strict=False)]
        change = max(changes) if changes and all(map(math.isfinite, changes)) else math.inf  # NaN compares as anything
        if change < best.error:
            best = Step(_STEPS[number - 1], change)
        last = found
    return best


def _change(parts: Parts, others: Parts) -> float:
    """How far two products are apart, relative."""
    pairs = [(a, b) for a, b in zip(parts, others, strict=True) if a is not None and b is not None]
    size = float(_norm([b for _, b in pairs])) if pairs else 0.0
    gap = float(_norm([a - b for a, b in pairs])) if pairs else 0.0
    return 0.0 if gap == 0.0 else gap / size if size != 0.0 else math.inf


def _norm(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(part) for part in parts]))
