"""Thick-restart Lanczos with full reorthogonalisation, for one starting vector or a band of several.

Wu & Simon 2000 (SIAM J. Matrix Anal. Appl. 22(2), 602-616); for symmetric matrices it equals Krylov-Schur
(Stewart 2001). With p starting vectors it is the band Lanczos process (Ruhe 1979): the block Krylov space, grown by one
product at a time, which sees an eigenvalue up to p times. The basis is one contiguous (m + p, P) tensor on the device;
every new vector is made orthogonal to all of it by two passes of classical Gram-Schmidt, each two matrix-vector
products ("twice is enough", Giraud et al. 2005). The projected matrix is kept in float64 on the host; one transfer of
its new column is the only synchronisation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from curvtool.critical import undisturbed
from curvtool.linalg.ritz import RitzPairs
from curvtool.linalg.sketch import Sketch
from curvtool.linalg.space import VectorSpace
from curvtool.linalg.usable import require_finite, require_usable
from curvtool.vocabulary import Storage

Product = Callable[..., tuple[torch.Tensor, torch.Tensor]]
Keep = Callable[[RitzPairs, int], np.ndarray]


class Lanczos:
    """A Krylov space of a symmetric operator that grows by one vector a `step` and is restarted when it is full.

    With the multiplied basis vectors as rows of Q and those waiting as rows of N: A Q^T = Q^T T + N^T C, T and C the
    upper and lower part of `projected`.

    Args:
        product: v, Q -> A v and the inner products of the rows of Q with each part A_b v of it, shape (B, len(Q));
            v, Q, S -> the same with S A_b v behind them, where there is a sketch S.
        space: the space of the vectors.
        max_basis: the number m of basis vectors; memory is m + p vectors, whatever the number of steps.
        seeds: of the start and of the vectors that replace an exhausted direction.
        start: the first vectors, shape (n, P), n <= p; random ones for those that lack.
        block_size: the number p of starting vectors.
        deflated: orthonormal vectors (l, P) in whose complement everything happens.
        storage: where the basis lies: `device`; `host`, from where it is multiplied in place, two vectors a pass going
            to and fro; or `bfloat16`, on the device in half the memory. What it rounds away the
            recurrence does not know of: values and residuals are off by up to 4e-3 ||A||, and the vectors are to be
            multiplied anew.
        sketch: keep sketches of the parts' products too, which tell what of them lies outside of the space.
    """

    def __init__(
        self,
        product: Product,
        space: VectorSpace,
        max_basis: int,
        seeds: tuple[int, ...],
        start: torch.Tensor | None = None,
        block_size: int = 1,
        deflated: torch.Tensor | None = None,
        storage: Storage = "device",
        sketch: bool = False,
    ) -> None:
        self.product, self.space, self.seeds, self.deflated = product, space, seeds, deflated
        self.num_drawn = 0
        self.dim = space.dim - (0 if deflated is None else len(deflated))
        self.block_size = min(block_size, self.dim)
        self.max_basis = min(max_basis, self.dim)
        self.basis = space.stored(storage, self.max_basis + self.block_size)
        self._has_parts = self._tells_parts
        self.projected = np.zeros((self.max_basis + self.block_size, self.max_basis))
        self.part_projected = np.zeros((0, self.max_basis, self.max_basis))
        self.sketch = Sketch(space) if sketch and self._has_parts else None
        length = 0 if self.sketch is None else self.sketch.size
        self.sketched = np.zeros((self.max_basis, length))  # S Q^T, a row each
        self.part_sketched = np.zeros((0, self.max_basis, length))  # S A_b Q^T
        self.leak = np.zeros((0 if deflated is None else len(deflated), self.max_basis))  # L A Q^T: what was left out
        self.size = 0  # vectors that have been multiplied
        self.waiting = self.block_size  # vectors after them that have not
        self.num_steps = 0
        self.num_closed = 0  # times that nothing new came and a random direction was taken
        self.scale = 0.0  # a lower estimate of ||A||: the largest magnitude seen, also of what a restart gave up
        self.is_chain = self.block_size == 1  # whether T is the recurrence of the start's own Krylov space still
        for i in range(self.waiting):
            given = start is not None and i < len(start)
            vector = start[i].clone() if start is not None and given else self._drawn()
            before = space.norm(vector)
            self._orthogonalize(vector, i)
            if given and not bool(space.norm(vector) > 8 * space.eps * before):  # zero, or in the span of the others
                vector = self._drawn()
                self._orthogonalize(vector, i)
            self._put(i, vector, space.norm(vector))

    def state(self) -> dict[str, Any]:
        """The basis and what is known of the matrix in it; see `restore`."""
        return {
            "basis": self.basis[: self.size + self.waiting],
            "arrays": [self.projected, self.part_projected, self.leak, self.sketched, self.part_sketched],
            "counts": [self.max_basis, self.size, self.waiting, self.num_steps, self.num_closed, self.num_drawn],
            "scale": self.scale,
            "chain": [self.is_chain, self.block_size],
            "has_parts": self._has_parts,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a state of a run with the same start, whatever room for the basis this one was given."""
        self.projected, self.part_projected, self.leak, self.sketched, self.part_sketched = state["arrays"]
        self.max_basis, self.size, self.waiting, self.num_steps, self.num_closed, self.num_drawn = state["counts"]
        self.scale = state["scale"]
        self.is_chain, self.block_size = state["chain"]
        room = self.max_basis + self.block_size
        if len(self.basis) != room:
            self.basis = self.basis.new_empty(room, self.basis.shape[1])
        self.basis[: self.size + self.waiting] = state["basis"].to(self.basis.device)
        # on other ranks the parts of the data are others
        self._has_parts = state["has_parts"] and self._tells_parts
        self.sketch = self.sketch if self._has_parts else None

    @property
    def _tells_parts(self) -> bool:
        """Parts of a product would have to go to the host one by one, or meet basis vectors that other ranks hold."""
        return self.basis.device == self.space.device and self.space.cluster.size == 1

    @property
    def exhausted(self) -> bool:
        """Whether the basis spans the whole space, so that the Ritz values are the eigenvalues."""
        return self.waiting == 0

    def step(self, keep: Keep) -> RitzPairs:
        """One product; returns the Ritz pairs of the grown space.

        Args:
            keep: which pairs survive a restart: `keep(pairs, number)` gives that many indices.
        """
        if self.size == self.max_basis and not self.exhausted:
            self._restart(keep)
        against = self.basis[: self.size + 1 if self._has_parts else 0]
        vector = self.next_vector
        if self.sketch is None:
            return self.grow(*self.product(vector, against))
        own = self.sketch(vector)
        product, shares = self.product(vector, against, self.sketch)
        return self.grow(product, torch.cat([shares, own.expand(len(shares), -1)], dim=1))

    @property
    def next_vector(self) -> torch.Tensor:
        """The vector that is to be multiplied next, where the basis is not full: shape (P,)."""
        return self.space.taken(self.basis[self.size])

    def grow(self, vector: torch.Tensor, shares: torch.Tensor) -> RitzPairs:
        """Takes in the product with `next_vector`; returns the Ritz pairs of the grown space.

        Args:
            vector: A v, shape (P,); overwritten.
            shares: the inner products of the basis up to v with each part A_b v, shape (B, size + 1); behind them
                their sketches and that of v, shape (B, size + 1 + 2 length), where there is one.
        """
        j, known = self.size, self.size + self.waiting
        leak = self.space.coefficients(self.deflated, vector) if self.deflated is not None else vector.new_empty(0)
        column, half_way = self._orthogonalize(vector, known)
        norm = self.space.norm(vector)
        full = known == self.dim
        if not full:
            self._put(known, vector, norm)
        packed = torch.cat([column, norm.reshape(1), half_way.reshape(1), leak, shares.reshape(-1)])
        numbers = packed.to(device="cpu", dtype=torch.float64).numpy()
        require_finite(numbers, "a product")
        require_usable([*numbers[: known + 1], self.scale], "a product")
        with undisturbed():
            self.projected[:known, j] = numbers[:known]
            self.projected[j, : j + 1] = numbers[: j + 1]
            self.scale = max(self.scale, float(np.abs(numbers[: j + 1]).max()))
            self.leak[:, j] = numbers[known + 2 : known + 2 + len(self.leak)]
            told = numbers[known + 2 + len(self.leak) :]
            self._record(told.reshape(-1, j + 1 + 2 * self.sketched.shape[1]) if self._has_parts else told[:0, None])
            self.size, self.num_steps = j + 1, self.num_steps + 1
            if full:
                self.waiting -= 1
            elif numbers[known] > max(8 * self.space.eps * self.scale, 0.5 * numbers[known + 1]):
                self.projected[known, j] = numbers[known]
            else:  # rounding alone is left; where the second pass takes much of it away again, it has no direction
                self._replace_exhausted_direction(known)
            pairs = self.ritz_pairs()
            self.scale = max(self.scale, float(np.abs(pairs.values).max()))
        return pairs

    @property
    def recurrence(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Diagonal and off-diagonal of the start's recurrence, shape (j,) each; None after a restart or of a block."""
        if not self.is_chain or not self.size:
            return None
        steps = np.arange(self.size)
        return self.projected[steps, steps].copy(), self.projected[steps + 1, steps].copy()

    def join(self, vector: torch.Tensor, keep: Keep) -> bool:
        """A direction more to grow from, as wide as the block is made by it; whether there was room.

        Args:
            vector: in the complement of the deflated vectors; overwritten.
            keep: which pairs survive a restart that is needed for it.
        """
        if self.size + self.waiting >= self.dim or self.max_basis < 2:
            return False
        if self.size >= self.max_basis - 1:
            self._restart(keep)
        if self.size >= self.max_basis - 1:
            return False
        known = self.size + self.waiting
        self._orthogonalize(vector, known)
        with undisturbed():
            self._put(known, vector, self.space.norm(vector))
            self.waiting, self.block_size, self.max_basis = self.waiting + 1, self.block_size + 1, self.max_basis - 1
            self.is_chain = False
        return True

    @property
    def coupling(self) -> np.ndarray:
        """C, shape (waiting, size): what the products hold of the waiting vectors."""
        return self.projected[self.size : self.size + self.waiting, : self.size]

    def ritz_pairs(self) -> RitzPairs:
        """The Ritz pairs as they stand; the residual norm of a pair with coefficients s is ||C s||."""
        values, coefficients = np.linalg.eigh(self.projected[: self.size, : self.size])
        return RitzPairs(values, coefficients, np.linalg.norm(self.coupling @ coefficients, axis=0))

    def vectors(self, pairs: RitzPairs, index: np.ndarray) -> torch.Tensor:
        """Ritz vectors of these indices, shape (len(index), P)."""
        return self.space.combined(self._to_device(pairs.coefficients[:, index].T), self.basis[: self.size])

    def mixed(self, pairs: RitzPairs, index: np.ndarray, weights: np.ndarray) -> torch.Tensor:
        """sum_i weights_i y_i over the Ritz vectors of these indices: shape (P,), without making each of them."""
        return self.space.combined(self._to_device(pairs.coefficients[:, index] @ weights), self.basis[: self.size])

    def foretold_product(self, pairs: RitzPairs, index: np.ndarray, weights: np.ndarray) -> torch.Tensor:
        """A u for u = sum_i weights_i y_i, as the recurrence has it: shape (P,)."""
        mixed = pairs.coefficients[:, index] @ weights
        inside = pairs.coefficients[:, index] @ (weights * pairs.values[index])
        column = self._to_device(np.concatenate([inside, self.coupling @ mixed]))
        return self.space.combined(column, self.basis[: self.size + self.waiting])

    def inside(self, vector: torch.Tensor) -> np.ndarray:
        """The vector's inner products with the basis: shape (size,)."""
        products = self.space.coefficients(self.basis[: self.size], vector)
        return products.to(device="cpu", dtype=torch.float64).numpy()

    def leaks(self, pairs: RitzPairs, index: np.ndarray) -> np.ndarray:
        """||L A y|| of the Ritz vectors of these indices: how far they are coupled with the deflated vectors L, which
        their residual norms in the complement leave out; 0 for exact eigenvectors L."""
        return np.linalg.norm(self.leak[:, : self.size] @ pairs.coefficients[:, index], axis=0)

    def part_forms(self, pairs: RitzPairs, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """<y_i, A_b y_j> of the Ritz vectors of these indices for each part of the data: shape (B, rows, columns)."""
        size, s = self.size, pairs.coefficients
        return np.asarray(s[:, rows].T @ (self.part_projected[:, :size, :size] @ s[:, columns]))

    def part_residuals(self, pairs: RitzPairs, index: np.ndarray) -> np.ndarray | None:
        """||(I - Q Q^T) A_b y_i||^2, estimated from sketches: shape (B, len(index)); None where there are none."""
        if self.sketch is None or not len(self.part_sketched):
            return None
        size = self.size
        s = pairs.coefficients[:, index]
        outside = np.einsum("bjr,ji->bir", self.part_sketched[:, :size], s)
        outside -= np.swapaxes(self.part_projected[:, :size, :size] @ s, 1, 2) @ self.sketched[:size]
        return np.asarray((outside**2).sum(axis=2))

    def _drawn(self) -> torch.Tensor:
        """A random vector, another one each time."""
        self.num_drawn += 1
        return self.space.normal(*self.seeds, self.num_drawn)

    def _put(self, place: int, vector: torch.Tensor, norm: torch.Tensor) -> None:
        """vector / norm as that basis vector; on the host a device's number is not to be waited for before."""
        row = self.basis[place]
        if row.device == vector.device:
            torch.div(vector, norm, out=row)
        else:
            row.copy_(vector / norm)

    def _record(self, shares: np.ndarray) -> None:
        """A column and row of Q A_b Q^T for each part b of the data, and the sketches."""
        length = self.sketched.shape[1]
        if len(self.part_projected) != len(shares):
            self.part_projected = np.zeros((len(shares), self.max_basis, self.max_basis))
            self.part_sketched = np.zeros((len(shares), self.max_basis, length))
        j = self.size
        self.part_projected[:, : j + 1, j] = self.part_projected[:, j, : j + 1] = shares[:, : j + 1]
        if length and len(shares):
            self.part_sketched[:, j], self.sketched[j] = shares[:, j + 1 : j + 1 + length], shares[0, j + 1 + length :]

    def _orthogonalize(self, vector: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Takes the first `count` basis vectors out of `vector` in place, twice.

        Returns:
            The coefficients (count,), and the norm of what the first pass left.
        """
        basis = self.basis[:count]
        total, half_way = vector.new_zeros(count), vector.new_zeros(())
        for attempt in range(2):
            if attempt:
                half_way = self.space.norm(vector)
            if self.deflated is not None:
                vector.sub_(self.space.combined(self.space.coefficients(self.deflated, vector), self.deflated))
            column = self.space.coefficients(basis, vector)
            vector.sub_(self.space.combined(column, basis))
            total = total + column
        return total, half_way

    def _replace_exhausted_direction(self, place: int) -> None:
        """Nothing new came: go on from a random vector orthogonal to all, which is coupled to nothing."""
        self.num_closed += 1
        self.is_chain = False
        vector = self._drawn()
        self._orthogonalize(vector, place)
        self._put(place, vector, self.space.norm(vector))

    def _restart(self, keep: Keep) -> None:
        """Keeps about half of the Ritz vectors and the waiting vectors; the space stays a Krylov space."""
        pairs = self.ritz_pairs()
        self.is_chain = False
        size, waiting = self.size, self.waiting
        index = keep(pairs, max(self.max_basis // 2, 1))
        count = len(index)
        s = pairs.coefficients[:, index]
        coupling = self.coupling @ s
        with undisturbed():
            self.space.rotate_(self.basis[:size], self._to_device(s.T))
            for i in range(waiting):
                self.basis[count + i] = self.basis[size + i]
            self.projected[:] = 0.0
            self.projected[np.arange(count), np.arange(count)] = pairs.values[index]
            self.projected[count : count + waiting, :count] = coupling
            self.leak[:, :count] = self.leak[:, :size] @ s
            self.part_projected[:, :count, :count] = np.einsum(
                "ji,bjk,kl->bil", s, self.part_projected[:, :size, :size], s, optimize=True
            )
            self.sketched[:count] = s.T @ self.sketched[:size]
            self.part_sketched[:, :count] = s.T @ self.part_sketched[:, :size]
            self.size = count

    def _to_device(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device=self.space.device, dtype=self.space.dtype)
