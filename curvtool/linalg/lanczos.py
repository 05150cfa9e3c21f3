"""Thick-restart Lanczos with full reorthogonalisation.

Wu & Simon 2000 (SIAM J. Matrix Anal. Appl. 22(2), 602-616); for symmetric matrices it equals Krylov-Schur
(Stewart 2001). The basis is one contiguous (m + 1, P) tensor on the device; every new vector is made orthogonal to all
of it by two passes of classical Gram-Schmidt, each two matrix-vector products ("twice is enough", Giraud et al. 2005).
The projected matrix is kept in float64 on the host; one transfer of its new column is the only synchronisation.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from curvtool.errors import not_finite
from curvtool.linalg.ritz import RitzPairs
from curvtool.linalg.space import VectorSpace


class Lanczos:
    """A Krylov space of a symmetric operator that grows by one vector a `step` and is restarted when it is full.

    Args:
        matvec: v -> A v, shape (P,) to (P,).
        space: the space of the vectors.
        max_basis: the number m of basis vectors; memory is (m + 1) vectors, whatever the number of steps.
        generator: draws the start and the vectors that replace an exhausted direction.
        start: the first vector; random if None.
    """

    def __init__(
        self,
        matvec: Callable[[torch.Tensor], torch.Tensor],
        space: VectorSpace,
        max_basis: int,
        generator: torch.Generator,
        start: torch.Tensor | None = None,
    ) -> None:
        self.matvec, self.space, self.generator = matvec, space, generator
        self.max_basis = min(max_basis, space.dim)
        self.basis = space.empty(self.max_basis + 1)
        self.projected = np.zeros((self.max_basis + 1, self.max_basis + 1))
        self.size = 0  # vectors that have been multiplied
        self.num_steps = 0
        self.last_norm = 0.0  # of the part of A q that the basis does not hold
        vector = space.normal(generator) if start is None else start.clone()
        torch.div(vector, space.norm(vector), out=self.basis[0])

    @property
    def exhausted(self) -> bool:
        """Whether the basis spans the whole space, so that the Ritz values are the eigenvalues."""
        return self.size >= self.space.dim

    @property
    def scale(self) -> float:
        """The largest entry of the projected matrix: a lower estimate of ||A||."""
        return float(np.abs(self.projected[: self.size, : self.size]).max(initial=0.0))

    def step(self, keep: Callable[[RitzPairs, int], np.ndarray]) -> RitzPairs:
        """One product; returns the Ritz pairs of the grown space.

        Args:
            keep: which pairs survive a restart: `keep(pairs, number)` gives that many indices.
        """
        if self.size == self.max_basis and not self.exhausted:
            self._restart(keep)
        j = self.size
        vector = self.matvec(self.basis[j])
        column = self._orthogonalize(vector, j + 1)
        norm = self.space.norm(vector)
        torch.div(vector, norm, out=self.basis[j + 1])
        numbers = torch.cat([column, norm.reshape(1)]).to(device="cpu", dtype=torch.float64).numpy()
        if not np.isfinite(numbers).all():
            raise not_finite("a Hessian product")
        self.projected[: j + 1, j] = self.projected[j, : j + 1] = numbers[:-1]
        self.size, self.num_steps, self.last_norm = j + 1, self.num_steps + 1, float(numbers[-1])
        if self.exhausted:
            self.last_norm = 0.0
        elif not self.last_norm > 8 * self.space.eps * self.scale:
            self._replace_exhausted_direction()
        return self.ritz_pairs()

    def ritz_pairs(self) -> RitzPairs:
        """The Ritz pairs as they stand; the residual norm of pair i is beta |s_{j,i}| (s: last row)."""
        values, coefficients = np.linalg.eigh(self.projected[: self.size, : self.size])
        return RitzPairs(values, coefficients, self.last_norm * np.abs(coefficients[-1]))

    def vectors(self, pairs: RitzPairs, index: np.ndarray) -> torch.Tensor:
        """Ritz vectors of these indices, shape (len(index), P)."""
        rotation = self._to_device(pairs.coefficients[:, index].T)
        return rotation @ self.basis[: self.size]

    def residual_direction(self) -> torch.Tensor:
        """The unit vector q along which all residuals point: A y_i - theta_i y_i = beta s_{j,i} q."""
        return self.basis[self.size]

    def _orthogonalize(self, vector: torch.Tensor, count: int) -> torch.Tensor:
        """Takes the first `count` basis vectors out of `vector` in place, twice; returns the coefficients (count,)."""
        basis = self.basis[:count]
        column = self.space.coefficients(basis, vector)
        vector.sub_(column @ basis)
        correction = self.space.coefficients(basis, vector)
        vector.sub_(correction @ basis)
        return column + correction

    def _replace_exhausted_direction(self) -> None:
        """The space is invariant: go on from a random vector orthogonal to it, which is coupled to nothing."""
        self.last_norm = 0.0
        vector = self.space.normal(self.generator)
        self._orthogonalize(vector, self.size)
        torch.div(vector, self.space.norm(vector), out=self.basis[self.size])

    def _restart(self, keep: Callable[[RitzPairs, int], np.ndarray]) -> None:
        """Keeps about half of the Ritz vectors and the residual direction; the space stays a Krylov space."""
        pairs = self.ritz_pairs()
        index = keep(pairs, max(self.max_basis // 2, 1))
        count = len(index)
        rotation = self._to_device(pairs.coefficients[:, index].T)
        chunk = max(1, 2**22 // (self.size + count))  # columns at a time: no second basis is needed
        for first in range(0, self.space.dim, chunk):
            columns = self.basis[: self.size, first : first + chunk]
            self.basis[:count, first : first + chunk] = rotation @ columns
        self.basis[count] = self.basis[self.size]
        self.projected[:] = 0.0
        self.projected[np.arange(count), np.arange(count)] = pairs.values[index]
        self.size = count

    def _to_device(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device=self.space.device, dtype=self.space.dtype)
