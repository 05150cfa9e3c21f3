"""What steers a Lanczos search: known pairs, the start, what survives a restart, and how long it may take."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from curvtool.estimators.request import Request
from curvtool.linalg.lanczos import Keep
from curvtool.linalg.ritz import RitzPairs
from curvtool.operators.base import LinearOperator

PASSES_IN_A_ROW = 2  # successive products, for each vector of the block, at which the errors have to be small enough


@dataclass(frozen=True)
class DeflatedPairs:
    """Vectors that were deflated, taken for eigenvectors, with what one product each says of them.

    Attributes:
        vectors: orthonormal rows, shape (l, P).
        values: Rayleigh quotients, shape (l,).
        residuals: residual norms, shape (l,).
    """

    vectors: torch.Tensor
    values: np.ndarray
    residuals: np.ndarray

    @classmethod
    def of(cls, operator: LinearOperator, vectors: torch.Tensor) -> DeflatedPairs:
        """By a product each."""
        space, numbers = operator.space, []
        for vector in vectors:
            image = operator.matvec(vector)
            value = space.inner(vector, image)
            numbers.append(torch.stack([value, space.norm(image - value * vector)]))
        values, residuals = torch.stack(numbers, dim=1).to("cpu", torch.float64).numpy()
        return cls(vectors, values, residuals)

    @property
    def coupling(self) -> float:
        """What they are coupled to the rest by, at most: no eigenvalue of the matrix is farther than that from one of
        the rest, or from one of theirs (Weyl)."""
        return float(np.linalg.norm(self.residuals))

    def distance(self, value: float) -> float:
        """From a value to the nearest of these, less its residual norm."""
        return float((np.abs(self.values - value) - self.residuals).min(initial=math.inf))


def start_for(operator: LinearOperator, request: Request) -> torch.Tensor | None:
    """The given vectors' sum with a random part as long as it is, so that no direction is shut out; or theirs.

    With a block each given vector starts a direction of its own, and the last one is random.
    """
    if request.start is None:
        return None
    space = operator.space
    given = request.start.to(device=space.device, dtype=space.dtype)
    if request.block_size > 1:
        return given[: request.block_size - 1]
    noise = space.normal(request.seed, 22)
    total = given.sum(0)
    return (total + noise * (space.norm(total) / space.norm(noise)))[None]


def keep_for(k: int, which: str) -> Keep:
    """The pairs that survive a restart: the wanted ones and their neighbours, from the wanted ends."""

    def keep(pairs: RitzPairs, number: int) -> np.ndarray:
        wanted = 2 * k if which == "be" else k
        number = min(max(number, wanted + 1), len(pairs.values) - 1)
        if which == "be":
            return pairs.wanted(max(number // 2, k), "be")  # never cut: the wanted ones stand at both ends
        return pairs.wanted(number, which)

    return keep


class Trend:
    """How many more products until the error meets the tolerance, by its mean fall over the last ten."""

    def __init__(self, rtol: float, in_a_row: int = PASSES_IN_A_ROW) -> None:
        self.rtol, self.in_a_row = rtol, in_a_row
        self.history: list[tuple[int, float]] = []

    def remaining(self, step: int, error: float) -> float | None:
        """None where the error does not fall."""
        self.history = [*self.history[-9:], (step, math.log(max(error, 1e-300)))]
        (first, high), (last, low) = self.history[0], self.history[-1]
        if low <= math.log(self.rtol):
            return float(self.in_a_row - 1)
        if last == first or low >= high:
            return None
        return (low - math.log(self.rtol)) * (last - first) / (high - low) + self.in_a_row - 1
