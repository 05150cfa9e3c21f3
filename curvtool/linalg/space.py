"""The vector space that the algorithms work in: flat vectors of one dtype on one device.

Every inner product goes through here, so that a process group could reduce it in one place.
"""

from __future__ import annotations

import numpy as np
import torch

from curvtool.cluster.solo import Solo


class VectorSpace:
    """R^P on a device.

    Args:
        dim: the number P of coordinates.
        dtype: dtype of the vectors.
        device: where they live.
        cluster: the group over which inner products are reduced.
    """

    def __init__(self, dim: int, dtype: torch.dtype, device: torch.device | str, cluster: Solo | None = None) -> None:
        self.dim, self.dtype, self.device = dim, dtype, torch.device(device)
        self.cluster = cluster or Solo()

    @property
    def vector_bytes(self) -> int:
        """Bytes of one vector."""
        return self.dim * self.dtype.itemsize

    @property
    def eps(self) -> float:
        """The unit of rounding of the vectors' dtype."""
        return torch.finfo(self.dtype).eps

    def zeros(self, *lead: int) -> torch.Tensor:
        """Zero vectors, shape (*lead, P)."""
        return torch.zeros(*lead, self.dim, dtype=self.dtype, device=self.device)

    def empty(self, *lead: int) -> torch.Tensor:
        """Vectors that are not initialised, shape (*lead, P)."""
        return torch.empty(*lead, self.dim, dtype=self.dtype, device=self.device)

    def coefficients(self, basis: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
        """Inner products of the rows of `basis` (m, P) with `vector` (P,): shape (m,), on the device."""
        return self.cluster.sum(basis @ vector)

    def inner(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """<left, right>, a scalar on the device."""
        return self.cluster.sum(torch.dot(left, right))

    def norm(self, vector: torch.Tensor) -> torch.Tensor:
        """The Euclidean norm, a scalar on the device."""
        if self.cluster.size == 1:
            return torch.linalg.vector_norm(vector)
        return self.inner(vector, vector).sqrt()

    def generator(self, *seeds: int) -> torch.Generator:
        """A generator on the device (on the CPU where the device has none), seeded by a tuple of integers.

        Tuples that differ in any place give independent streams (NumPy's SeedSequence mixes them).
        """
        state = int(np.random.SeedSequence(list(seeds)).generate_state(1, np.uint64)[0])
        try:
            generator = torch.Generator(device=self.device)
        except RuntimeError:
            generator = torch.Generator(device="cpu")
        generator.manual_seed(state & 0x7FFFFFFFFFFFFFFF)
        return generator

    def normal(self, generator: torch.Generator) -> torch.Tensor:
        """A vector of independent standard normal coordinates."""
        drawn = torch.randn(self.dim, dtype=self.dtype, device=generator.device, generator=generator)
        return drawn.to(self.device)

    def rademacher(self, generator: torch.Generator) -> torch.Tensor:
        """A vector of independent signs, +1 or -1 with probability one half."""
        bits = torch.randint(0, 2, (self.dim,), dtype=torch.int8, device=generator.device, generator=generator)
        return bits.to(self.device).to(self.dtype).mul_(2).sub_(1)
