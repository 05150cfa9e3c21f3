"""A small space in which a matrix's trace is known exactly, so that random probes need only cover its complement."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from curvtool.errors import not_finite
from curvtool.linalg.lanczos import Lanczos
from curvtool.linalg.ritz import RitzPairs
from curvtool.operators.base import LinearOperator


@dataclass(frozen=True)
class KnownSpace:
    """Attributes:
    basis: orthonormal rows Q, shape (m, P).
    trace: tr(Q A Q^T).
    """

    basis: torch.Tensor
    trace: float

    def complement(self, vectors: torch.Tensor, operator: LinearOperator) -> torch.Tensor:
        """(I - Q^T Q) z for the rows z of (t, P)."""
        return vectors - operator.space.gram(vectors, self.basis) @ self.basis


def krylov_space(operator: LinearOperator, num_vectors: int, seed: int) -> KnownSpace:
    """The Krylov space of a random start, a product a vector; its leading Ritz vectors hold most of a decaying
    spectrum (the quadratic forms in it are the recurrence's own, without further products)."""

    def product(vector: torch.Tensor, against: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return operator.matvec_by_terms(vector), against.new_empty(0, len(against))

    lanczos = Lanczos(product, operator.space, num_vectors, operator.space.generator(seed, 15))

    def never(pairs: RitzPairs, number: int) -> np.ndarray:
        raise AssertionError("the basis is as large as the number of steps")

    for _ in range(min(num_vectors, lanczos.dim)):
        lanczos.step(never)
    return KnownSpace(lanczos.basis[: lanczos.size], float(np.trace(lanczos.projected[: lanczos.size, : lanczos.size])))


def sketched_space(operator: LinearOperator, num_vectors: int, seed: int) -> KnownSpace:
    """The range of A S for random signs S: the sketch of Hutch++ (Meyer, Musco, Musco, Woodruff 2021); two products a
    vector."""
    space = operator.space
    basis = space.empty(num_vectors)
    count, forms = 0, []
    for number in range(num_vectors):
        vector = operator.matvec_by_terms(space.signs(seed, 16, number)[0])
        length = space.norm(vector)
        for _ in range(2):
            vector = vector - space.coefficients(basis[:count], vector) @ basis[:count]
        rest = space.norm(vector)
        before, after = (float(x) for x in torch.stack([length, rest]).to("cpu", torch.float64))
        if not np.isfinite(before):
            raise not_finite("a product")
        if after <= 64 * space.eps * before:
            continue  # the range is spanned already
        basis[count] = vector / rest
        forms.append(space.inner(basis[count], operator.matvec_by_terms(basis[count])))
        count += 1
    total = float(torch.stack(forms).double().sum()) if forms else 0.0
    return KnownSpace(basis[:count], total)
