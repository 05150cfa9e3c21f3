"""Deflated power iteration: the eigenvalues of largest magnitude, one after the other, with their sign."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from curvtool.linalg.space import VectorSpace
from curvtool.linalg.usable import require_usable


@dataclass(frozen=True)
class PowerState:
    """One product of the iteration.

    Attributes:
        value: Rayleigh quotient <v, A v> of the unit vector v; keeps the eigenvalue's sign.
        residual_norm: ||A v - value v||, in the complement of the vectors found before.
        vector: v, shape (P,).
        image: A v itself, shape (P,).
    following: the next iterate.
    """

    value: float
    residual_norm: float
    vector: torch.Tensor
    image: torch.Tensor
    following: torch.Tensor


def power_iteration(
    matvec: Callable[[torch.Tensor], torch.Tensor],
    space: VectorSpace,
    found: torch.Tensor,
    seeds: tuple[int, ...],
    start: torch.Tensor | None = None,
) -> Iterator[PowerState]:
    """Iterates v <- A v / ||A v|| in the orthogonal complement of `found`; endless, the caller stops it.

    Args:
        matvec: v -> A v.
        space: the space of the vectors.
        found: orthonormal eigenvectors to leave out, shape (count, P).
        seeds: of the start.
        start: an iterate of an earlier run, to go on from.

    Yields:
        The state after each product; one device-to-host transfer each.
    """

    def deflate(vector: torch.Tensor) -> torch.Tensor:
        for _ in range(2 if len(found) else 0):
            vector = vector - space.coefficients(found, vector) @ found
        return vector

    if start is None:
        start = deflate(space.normal(*seeds))
        start = start / space.norm(start)
    vector = start
    while True:
        whole = matvec(vector)
        image = deflate(whole)
        value = space.inner(vector, image)
        residual = space.norm(image - value * vector)
        numbers = torch.stack([value, residual]).to(device="cpu", dtype=torch.float64).tolist()
        require_usable(numbers, "a product")
        norm = space.norm(image)
        following = torch.where(norm > 0, image / norm.clamp_min(torch.finfo(space.dtype).tiny), vector)
        yield PowerState(numbers[0], numbers[1], vector, whole, following)
        vector = following
