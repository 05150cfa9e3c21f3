"""The vector space that the algorithms work in: flat vectors of one dtype on one device, cut over the ranks of a group.

Each rank holds its coordinates of every vector. Every inner product goes through here and is reduced over the ranks, so
that all of them see the same numbers and take the same branches, and so that it is right: summed up in float32, the
inner products of vectors of 1e8 coordinates were seen to be 7 % off, and their norms 1 %. Sums over pieces are taken in
the vectors' dtype, and the pieces added up in float64.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from curvtool.cluster.solo import Solo
from curvtool.device import is_host, sums_in
from curvtool.linalg.draws import random_normals, random_signs
from curvtool.linalg.shards import Shards
from curvtool.vocabulary import Storage

_PIECE = 2**14
_ROTATED = 2**22  # numbers
_CONVERTED = 2**18  # coordinates at a time that are taken out of another dtype


class VectorSpace:
    """R^P on a device. What is called a vector has the coordinates that this rank holds: all P of them in one process.

    Args:
        dim: the number P of coordinates.
        dtype: dtype of the vectors.
        device: where they live.
        cluster: the group over whose ranks vectors are cut and inner products are reduced.
        segments: lengths of consecutive segments that are cut each by itself; the whole vector if None.

    Attributes:
        segments: as given.
        columns: the coordinates that this rank holds, ranges one after the other.
        size: their number.
    """

    def __init__(
        self,
        dim: int,
        dtype: torch.dtype,
        device: torch.device | str,
        cluster: Solo | None = None,
        segments: Sequence[int] | None = None,
    ) -> None:
        self.dim, self.dtype, self.device = dim, dtype, torch.device(device)
        self.cluster = cluster or Solo()
        self.segments = (dim,) if segments is None else tuple(segments)
        self._shards = Shards(self.segments, self.cluster.size)
        self.columns = self._shards.columns(self.cluster.rank)
        self.size = sum(map(len, self.columns))

    @property
    def vector_bytes(self) -> int:
        """Bytes of one vector on the rank that holds most of it."""
        return self._shards.width * self.dtype.itemsize

    @property
    def whole_bytes(self) -> int:
        """Bytes of all coordinates of one vector."""
        return self.dim * self.dtype.itemsize

    def in_double(self) -> VectorSpace:
        """The same coordinates in float64."""
        return VectorSpace(self.dim, torch.float64, self.device, self.cluster, self.segments)

    @property
    def eps(self) -> float:
        """The unit of rounding of the vectors' dtype."""
        return torch.finfo(self.dtype).eps

    def zeros(self, *lead: int) -> torch.Tensor:
        """Zero vectors, shape (*lead, size)."""
        return torch.zeros(*lead, self.size, dtype=self.dtype, device=self.device)

    def empty(self, *lead: int) -> torch.Tensor:
        """Vectors that are not initialised, shape (*lead, size)."""
        return torch.empty(*lead, self.size, dtype=self.dtype, device=self.device)

    def place(self, coordinate: int) -> int | None:
        """Where a coordinate stands in this rank's vectors; None where another rank holds it."""
        start = 0
        for columns in self.columns:
            if coordinate in columns:
                return start + coordinate - columns.start
            start += len(columns)
        return None

    def units(self, coordinates: range) -> torch.Tensor:
        """The unit vectors of these coordinates, shape (len(coordinates), size)."""
        found = self.zeros(len(coordinates))
        for row, coordinate in enumerate(coordinates):
            place = self.place(coordinate)
            if place is not None:
                found[row, place] = 1
        return found

    # between the ranks

    def whole(self, vectors: torch.Tensor) -> torch.Tensor:
        """All coordinates (..., P) of vectors (..., size), on every rank; the vectors themselves in one process."""
        if self.cluster.size == 1:
            return vectors
        return self._shards.joined(self.cluster.gather(self._shards.padded(vectors, self.cluster.rank)))

    def part(self, whole: torch.Tensor) -> torch.Tensor:
        """This rank's coordinates (..., size) of vectors that every rank has all of, (..., P)."""
        if self.cluster.size == 1:
            return whole
        return torch.cat([whole[..., columns.start : columns.stop] for columns in self.columns], dim=-1)

    def reduced(self, terms: torch.Tensor) -> torch.Tensor:
        """This rank's coordinates (..., size) of the sum over the ranks of vectors with all of them, (..., P)."""
        if self.cluster.size == 1:
            return terms
        dealt = self._shards.dealt(terms)
        found = self.cluster.scatter_sum(dealt.reshape(-1)).view(dealt.shape[1:])
        return self._unpadded(found)

    def _unpadded(self, padded: torch.Tensor) -> torch.Tensor:
        if padded.shape[-1] == self.size:
            return padded
        pieces = self._shards.of_width(padded)
        return torch.cat([p[..., : len(c)] for p, c in zip(pieces, self.columns, strict=True)], dim=-1)

    def stored(self, storage: Storage, count: int) -> torch.Tensor:
        """Room for vectors that are kept as `Storage` says, (count, P), not initialised."""
        device = torch.device("cpu") if storage == "host" else self.device
        dtype = torch.bfloat16 if storage == "bfloat16" else self.dtype
        return torch.empty(count, self.size, dtype=dtype, device=device)

    def taken(self, vector: torch.Tensor) -> torch.Tensor:
        """A stored vector as one to compute with: itself where it is stored so."""
        return vector.to(device=self.device, dtype=self.dtype)

    def coefficients(self, basis: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
        """Inner products of the rows of `basis` (m, P), however stored, with `vector` (P,): (m,), on the device."""
        local = self._local_gram(basis, vector.to(basis.device)[:, None])[:, 0]
        return self.cluster.sum(local.to(self.device))

    def combined(self, weights: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
        """weights (..., m) times the rows of `basis` (m, P), however stored: (..., P), on the device."""
        weights = weights.to(basis.device)
        if basis.dtype == self.dtype:
            return (basis.T @ weights if weights.dim() == 1 else weights @ basis).to(self.device)
        found = torch.empty(*weights.shape[:-1], self.size, dtype=self.dtype, device=basis.device)
        for start in range(0, self.size, _CONVERTED):  # in pieces, so that no second basis is made
            columns = slice(start, start + _CONVERTED)
            found[..., columns] = weights @ basis[:, columns].to(self.dtype)
        return found.to(self.device)

    def rotate_(self, basis: torch.Tensor, rotation: torch.Tensor) -> None:
        """Replaces the first n rows of `basis` (m, P), however stored, by `rotation` (n, m) times all of them."""
        rotation = rotation.to(basis.device)
        chunk = max(1, _ROTATED // (len(basis) + len(rotation)))  # columns at a time: no second basis is needed
        for start in range(0, self.size, chunk):
            columns = basis[:, start : start + chunk]
            columns[: len(rotation)] = rotation @ columns.to(self.dtype)

    def residual_norms(self, images: torch.Tensor, values: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        """||z_i - values_i y_i|| for the rows of Z and Y (m, P), in float64 on the device: shape (m,)."""
        squares = torch.zeros(len(images), dtype=sums_in(self.device), device=self.device)
        for start in range(0, images.shape[1], self._piece):
            columns = slice(start, start + self._piece)
            rest = torch.addcmul(images[:, columns], values[:, None], vectors[:, columns], value=-1)
            squares += torch.linalg.vector_norm(rest, dim=1, dtype=squares.dtype).square()
        return self.cluster.sum(squares).sqrt()

    def gram(self, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """Inner products of the rows of two tensors (m, P) and (n, P): shape (m, n), on the device."""
        return self.cluster.sum(self._local_gram(rows, columns.T))

    def inner(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """<left, right>, a scalar on the device."""
        return self.coefficients(left[None], right)[0]

    def segment_inners(self, left: torch.Tensor, right: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
        """Row by row, the inner products of consecutive segments: (t, size) and (t, size) give (t, len(sizes)).

        Args:
            left: rows.
            right: rows; overwritten.
            sizes: lengths of the segments, adding up to P.
        """
        return self.segment_sums(right.mul_(left), sizes)

    def segment_sums(self, rows: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
        """The sums of consecutive segments of each row: (t, size) gives (t, len(sizes)).

        Args:
            rows: shape (t, size).
            sizes: lengths of the segments, adding up to P.
        """
        # torch sums in trees, which lose no digits where its matrix products do
        pieces = rows.split(self._held_of(sizes), dim=1)
        return self.cluster.sum(torch.stack([piece.sum(1) for piece in pieces], dim=1))

    def _held_of(self, sizes: Sequence[int]) -> list[int]:
        """How many coordinates of each of consecutive segments this rank holds."""
        if self.cluster.size == 1:
            return list(sizes)
        found, start = [], 0
        for size in sizes:
            stop = start + size
            found.append(sum(max(0, min(c.stop, stop) - max(c.start, start)) for c in self.columns))
            start = stop
        return found

    def total(self, vector: torch.Tensor) -> torch.Tensor:
        """The sum of the coordinates, a scalar on the device."""
        return self.cluster.sum(vector.sum(dtype=sums_in(self.device)))

    def norm(self, vector: torch.Tensor) -> torch.Tensor:
        """The Euclidean norm, a scalar on the device."""
        wide = sums_in(self.device)  # in the vectors' dtype, squares of what is below 1e-19 would be lost
        pieces = vector.split(_CONVERTED) if is_host(self.device) else (vector,)
        norms = torch.stack([torch.linalg.vector_norm(piece, dtype=wide) for piece in pieces])
        found = torch.linalg.vector_norm(norms) if len(norms) > 1 else norms[0]
        if self.cluster.size > 1:
            found = self.cluster.sum(found.square()).sqrt()
        return found.to(self.dtype)

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
        return _PIECE if is_host(self.device) else 32 * _PIECE

    def _local_gram(self, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """rows (m, p) times columns (p, n), in pieces."""
        piece, length = self._piece, rows.shape[1]
        if length <= piece or self.dtype == torch.float64:
            return rows.to(self.dtype) @ columns
        total = torch.zeros(len(rows), columns.shape[1], dtype=sums_in(rows.device), device=rows.device)
        for start in range(0, length, piece):
            total += rows[:, start : start + piece].to(self.dtype) @ columns[start : start + piece]
        return total.to(self.dtype)

    def normal(self, *seeds: int) -> torch.Tensor:
        """A vector of independent standard normal coordinates; see `normals`."""
        return self.normals(*seeds)[0]

    def normals(self, *seeds: int, rows: range = range(1)) -> torch.Tensor:
        """Vectors of independent standard normal coordinates, shape (len(rows), size).

        A row depends on the seeds and on its number alone: not on the other rows, nor on the device or the ranks.
        Seeds that differ in any place give independent rows (NumPy's SeedSequence mixes them).
        """
        return random_normals(_key(seeds), rows, self.columns, self.dtype, self.device)

    def signs(self, *seeds: int, rows: range = range(1)) -> torch.Tensor:
        """Vectors of independent signs, +1 or -1 with probability one half, shape (len(rows), size); likewise."""
        return random_signs(_key(seeds), rows, self.columns, self.dtype, self.device)


def _key(seeds: Sequence[int]) -> int:
    """64 bits from a tuple of integers, as a signed number."""
    return int(np.random.SeedSequence(list(seeds)).generate_state(1, np.uint64).view(np.int64)[0])
