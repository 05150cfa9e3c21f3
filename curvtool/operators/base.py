"""What an estimator sees: a symmetric linear operator, possibly a sum of terms over groups of samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch

from curvtool.errors import UsageError
from curvtool.linalg.space import VectorSpace


class LinearOperator(ABC):
    """A symmetric matrix A of size P x P, known by its products.

    Attributes:
        space: the space of its vectors.
        name: what the matrix is, as `hessian`.
        num_products: products with the whole matrix so far (one a vector).
        data_passes: passes over all samples so far, fractions allowed.
    """

    name = "matrix"

    def __init__(self, space: VectorSpace) -> None:
        self.space = space
        self.num_products = 0.0
        self.data_passes = 0.0

    @property
    def shape(self) -> tuple[int, int]:
        """(P, P)."""
        return self.space.dim, self.space.dim

    @abstractmethod
    def matvec(self, vector: torch.Tensor) -> torch.Tensor:
        """A v for v of shape (P,); a new tensor of the same shape, dtype and device."""

    @property
    def num_terms(self) -> int:
        """The number of terms that the matrix is a sum of; 1 where it is known as a whole alone."""
        return 1

    def term_quadratic_form(self, term: int, probe: torch.Tensor) -> torch.Tensor:
        """<z, A_t z>, a scalar on the device, for the term A_t of A = sum_t A_t."""
        return self.space.inner(probe, self.matvec(probe))

    def __matmul__(self, vector: torch.Tensor) -> torch.Tensor:
        return self.matvec(vector)

    def materialize(self, max_bytes: int = 2**30) -> torch.Tensor:
        """The dense matrix (P, P), a product a column; for small problems.

        Raises:
            UsageError: CT006, it would take more than `max_bytes`.
        """
        needed = self.space.dim * self.space.vector_bytes
        if needed > max_bytes:
            raise UsageError(
                "CT006",
                f"the dense matrix would take {needed / 2**30:.1f} GiB",
                expected=f"at most {max_bytes / 2**30:.1f} GiB",
                received=f"{self.space.dim:,} x {self.space.dim:,} in {self.space.dtype}",
                remedy="take fewer parameters, or raise max_bytes",
            )
        columns = []
        for index in range(self.space.dim):
            unit = self.space.zeros()
            unit[index] = 1
            columns.append(self.matvec(unit))
        return torch.stack(columns, dim=1)


class MatrixOperator(LinearOperator):
    """A dense symmetric matrix, or the sum of several, as an operator: for tests and for comparison.

    Args:
        terms: one matrix (P, P), or a sequence of them that add up to the operator.
    """

    def __init__(self, terms: torch.Tensor | Sequence[torch.Tensor]) -> None:
        self.terms = [terms] if isinstance(terms, torch.Tensor) else list(terms)
        first = self.terms[0]
        super().__init__(VectorSpace(first.shape[0], first.dtype, first.device))
        self.matrix = torch.stack(self.terms).sum(0)

    def matvec(self, vector: torch.Tensor) -> torch.Tensor:
        """A v."""
        self.num_products += 1
        self.data_passes += 1
        return self.matrix @ vector

    @property
    def num_terms(self) -> int:
        """How many matrices add up to the operator."""
        return len(self.terms)

    def term_quadratic_form(self, term: int, probe: torch.Tensor) -> torch.Tensor:
        """<z, A_t z>."""
        self.num_products += 1 / self.num_terms
        self.data_passes += 1 / self.num_terms
        return probe @ (self.terms[term] @ probe)
