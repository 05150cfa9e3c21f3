"""The vector space that the algorithms work in: flat vectors of one dtype on one device.

Every inner product goes through here, so that a process group could reduce it in one place, and so that it is right:
summed up in float32, the inner products of vectors of 1e8 coordinates were seen to be 7 % off, and their norms 1 %.
Sums over pieces are taken in the vectors' dtype, and the pieces added up in float64.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from curvtool.cluster.solo import Solo
from curvtool.linalg.signs import random_signs

_PIECE = 2**14


def _accumulator(device: torch.device) -> torch.dtype:
    """float64, where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


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
        return self.cluster.sum(self._local_gram(basis, vector[:, None])[:, 0])

    def gram(self, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """Inner products of the rows of two tensors (m, P) and (n, P): shape (m, n), on the device."""
        return self.cluster.sum(self._local_gram(rows, columns.T))

    def inner(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """<left, right>, a scalar on the device."""
        return self.coefficients(left[None], right)[0]

    def segment_inners(self, left: torch.Tensor, right: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
        """Row by row, the inner products of consecutive segments: (t, P) and (t, P) give (t, len(sizes)).

        Args:
            left: rows.
            right: rows; overwritten.
            sizes: lengths of the segments, adding up to P.
        """
        # torch sums in trees, which lose no digits where its matrix products do
        pieces = right.mul_(left).split(list(sizes), dim=1)
        return self.cluster.sum(torch.stack([piece.sum(1) for piece in pieces], dim=1))

    def norm(self, vector: torch.Tensor) -> torch.Tensor:
        """The Euclidean norm, a scalar on the device."""
        if self.cluster.size > 1:
            return self.inner(vector, vector).sqrt()
        whole = len(vector) // self._piece * self._piece
        if not whole or self.dtype == torch.float64:
            return torch.linalg.vector_norm(vector)
        pieces = torch.linalg.vector_norm(vector[:whole].view(-1, self._piece), dim=1)
        ends = torch.linalg.vector_norm(vector[whole:])[None]
        return torch.linalg.vector_norm(torch.cat([pieces, ends]).to(_accumulator(self.device))).to(self.dtype)

    def orthonormal(self, vectors: torch.Tensor) -> torch.Tensor:
        """Orthonormal rows of the same span as the rows of `vectors` (m, P), on the device."""
        rows = vectors.to(device=self.device, dtype=self.dtype, copy=True)
        for i, row in enumerate(rows):
            for _ in range(2):
                row.sub_(self.coefficients(rows[:i], row) @ rows[:i])
            row.div_(self.norm(row))
        return rows

    @property
    def _piece(self) -> int:
        """Coordinates that are summed up in the vectors' own dtype; accelerators sum in trees, which lose less."""
        return _PIECE if self.device.type == "cpu" else 32 * _PIECE

    def _local_gram(self, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """rows (m, p) times columns (p, n), in pieces."""
        piece, length = self._piece, rows.shape[1]
        if length <= piece or self.dtype == torch.float64:
            return rows @ columns
        total = torch.zeros(len(rows), columns.shape[1], dtype=_accumulator(self.device), device=self.device)
        for start in range(0, length, piece):
            total += rows[:, start : start + piece] @ columns[start : start + piece]
        return total.to(self.dtype)

    def generator(self, *seeds: int) -> torch.Generator:
        """A generator on the device (on the CPU where the device has none), seeded by a tuple of integers.

        Tuples that differ in any place give independent streams (NumPy's SeedSequence mixes them).
        """
        try:
            generator = torch.Generator(device=self.device)
        except RuntimeError:
            generator = torch.Generator(device="cpu")
        generator.manual_seed(_key(seeds) & 0x7FFFFFFFFFFFFFFF)
        return generator

    def normal(self, generator: torch.Generator) -> torch.Tensor:
        """A vector of independent standard normal coordinates."""
        drawn = torch.randn(self.dim, dtype=self.dtype, device=generator.device, generator=generator)
        return drawn.to(self.device)

    def signs(self, *seeds: int, rows: range = range(1)) -> torch.Tensor:
        """Vectors of independent signs, +1 or -1 with probability one half, shape (len(rows), P).

        A row depends on the seeds and on its number alone: not on the other rows, nor on the device.
        """
        return random_signs(_key(seeds), rows, self.dim, self.dtype, self.device)


def _key(seeds: Sequence[int]) -> int:
    """64 bits from a tuple of integers, as a signed number."""
    return int(np.random.SeedSequence(list(seeds)).generate_state(1, np.uint64).view(np.int64)[0])
