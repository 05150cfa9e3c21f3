"""What an estimator sees: a symmetric linear operator, possibly a sum of terms over groups of samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from curvtool.errors import UsageError
from curvtool.linalg.sketch import Sketch
from curvtool.linalg.space import VectorSpace
from curvtool.operators.terms import OneTerm, Terms


class Steps:
    """How far a computation of many products has come, so that it can be left between two of them and gone on with.

    Attributes:
        done: steps that are through.
        of: how many there are; 0 before the first.
        so_far: what they gave: a vector of the operator's space, or several; None before the first.
    """

    def __init__(self) -> None:
        self.done, self.of = 0, 0
        self.so_far: torch.Tensor | None = None

    def left(self, of: int) -> range:
        """The steps that are not through yet, of so many; of as many as at the start where it goes on."""
        self.of = self.of or of
        return range(self.done, self.of)

    def advance(self, done: int, so_far: torch.Tensor) -> None:
        """So many are through. Who watches overrides it; what it raises ends the computation."""
        self.done, self.so_far = done, so_far


class LinearOperator(ABC):
    """A symmetric matrix A of size P x P, known by its products.

    Attributes:
        space: the space of its vectors, of which a rank holds a part.
        name: what the matrix is, as `hessian`.
        num_products: products with the whole matrix so far (one a vector).
        data_passes: passes over all samples so far, fractions allowed.
        seconds_before: that products of a run that was stopped had taken, and what was between them.
    """

    name = "matrix"

    def __init__(self, space: VectorSpace) -> None:
        self.space = space
        self.num_products = 0.0
        self.data_passes = 0.0
        self.seconds_before = 0.0
        self._noise: float | None = None

    @property
    def noise(self) -> float:
        """The relative error of a product, ||fl(A v) - A v|| / ||A v|| for a random v: as measured, else the rounding
        of the vectors' dtype."""
        return self.space.eps if self._noise is None else self._noise

    @noise.setter
    def noise(self, measured: float | None) -> None:
        self._noise = measured

    def vanished(self) -> float:
        """How large an eigenvalue of a matrix may be all of whose products were rounded to zero, as float64 shows; 0
        where nothing better than these products is to be had."""
        return 0.0

    def credit(self, num_products: float, data_passes: float, seconds: float) -> None:
        """Counts what a run that was stopped had done."""
        self.num_products += num_products
        self.data_passes += data_passes
        self.seconds_before += seconds

    @property
    def shape(self) -> tuple[int, int]:
        """(P, P)."""
        return self.space.dim, self.space.dim

    @abstractmethod
    def matvec(self, vector: torch.Tensor) -> torch.Tensor:
        """A v for v of shape (P,); a new tensor of the same shape, dtype and device."""

    def precise_matvec(self, vector: torch.Tensor) -> torch.Tensor | None:
        """The product in float64 over all data; None where that is not to be had, or dearer than it is worth."""
        return None

    @property
    def block_width(self) -> int:
        """Vectors that `matmat` best takes at a time: 1 where several together cost as much as one after the other."""
        return 1

    def matmat(self, vectors: torch.Tensor) -> torch.Tensor:
        """A v for each row v of (k, P): a new tensor of that shape."""
        return torch.stack([self.matvec(vector) for vector in vectors])

    def matvec_in_parts(
        self, vector: torch.Tensor, against: torch.Tensor, sketch: Sketch | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A v, and the inner products of the rows of `against` (m, P) with each part A_b v of it: shape (B, m).

        The parts are those of the data, A = sum_b A_b; B = 0 where the matrix is known as a whole alone. With a sketch
        S the numbers S A_b v follow them in each row: shape (B, m + size).
        """
        return self.matvec(vector), against.new_empty(0, len(against))

    @property
    def part_weights(self) -> np.ndarray:
        """The share of each part in the whole weight, shape (B,)."""
        return np.empty(0)

    @property
    def terms(self) -> Terms:
        """The terms of the sum that the matrix is; itself alone where it is known as a whole alone."""
        return OneTerm(self)

    @property
    def rank_bound(self) -> int:
        """The most that the matrix's rank can be, where its form tells; P where it does not."""
        return self.space.dim

    @property
    def diagonal_cost(self) -> int:
        """Products that `exact_diagonal` takes: one an entry."""
        return self.space.dim

    def exact_diagonal(self, steps: Steps | None = None) -> torch.Tensor:
        """diag(A), this rank's coordinates of it, from products with unit vectors.

        Args:
            steps: what to go on from, and who hears of every step.
        """
        steps = steps or Steps()
        diagonal, unit = self.space.zeros() if steps.so_far is None else steps.so_far, self.space.zeros()
        for index in steps.left(self.space.dim):
            place = self.space.place(index)
            if place is not None:
                unit[place] = 1
            image = self.matvec(unit)
            if place is not None:
                diagonal[place] = image[place]
                unit[place] = 0
            steps.advance(index + 1, diagonal)
        return diagonal

    def __matmul__(self, vector: torch.Tensor) -> torch.Tensor:
        return self.matvec(vector)

    def materialize(self, max_bytes: int = 2**30, steps: Steps | None = None) -> torch.Tensor:
        """The dense matrix (P, P) on every rank, a product a column; for small problems.

        Args:
            max_bytes: what it may take.
            steps: what to go on from, and who hears of every column.

        Raises:
            UsageError: CT006, it would take more than `max_bytes`.
        """
        needed = self.space.dim * self.space.whole_bytes
        if needed > max_bytes:
            raise UsageError(
                "CT006",
                f"the dense matrix would take {needed / 2**30:.1f} GiB",
                expected=f"at most {max_bytes / 2**30:.1f} GiB",
                received=f"{self.space.dim:,} x {self.space.dim:,} in {self.space.dtype}",
                remedy="take fewer parameters (--params), or raise --memory-budget (max_bytes in Python)",
            )
        dim, steps = self.space.dim, steps or Steps()
        images = self.space.empty(dim)
        if steps.so_far is not None:
            images[: steps.done] = steps.so_far
        left, width = steps.left(dim), min(self.block_width, dim)
        for start in left[::width]:
            columns = range(start, min(start + width, dim))
            images[columns.start : columns.stop] = self.matmat(self.space.units(columns))
            steps.advance(columns.stop, images[: columns.stop])
        return self.space.whole(images).T


def scipy_operator(operator: LinearOperator) -> Any:
    """The matrix as a `scipy.sparse.linalg.LinearOperator`, for SciPy's solvers: shape (P, P), on the host.

    A vector takes the way to the operator's device and back. In one process, where a vector is whole.

    Raises:
        ImportError: SciPy is not installed.
    """
    from scipy.sparse.linalg import LinearOperator as ScipyOperator

    space = operator.space

    def product(columns: np.ndarray) -> np.ndarray:
        rows = torch.as_tensor(np.ascontiguousarray(columns.reshape(space.dim, -1).T))
        found = operator.matmat(rows.to(space.device, space.dtype)).cpu().numpy()
        return np.asarray(found.T.reshape(columns.shape))

    dtype = torch.empty(0, dtype=space.dtype).numpy().dtype
    return ScipyOperator((space.dim, space.dim), matvec=product, rmatvec=product, matmat=product, dtype=dtype)


class MatrixOperator(LinearOperator):
    """A dense symmetric matrix, or the sum of several, as an operator: for tests and for comparison.

    Args:
        terms: one matrix (P, P), or several that add up to the operator, (T, P, P).
    """

    def __init__(self, terms: torch.Tensor | Sequence[torch.Tensor]) -> None:
        stacked = terms if isinstance(terms, torch.Tensor) else torch.stack(list(terms))
        self.matrices = stacked.view(-1, *stacked.shape[-2:])
        super().__init__(VectorSpace(self.matrices.shape[1], self.matrices.dtype, self.matrices.device))
        self.matrix = self.matrices.sum(0)

    def matvec(self, vector: torch.Tensor) -> torch.Tensor:
        """A v."""
        self.num_products += 1
        self.data_passes += 1
        return self.matrix @ vector

    @property
    def terms(self) -> MatrixTerms:
        """The matrices that add up to it."""
        return MatrixTerms(self)

    def matvec_in_parts(
        self, vector: torch.Tensor, against: torch.Tensor, sketch: Sketch | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A v and its parts, one a matrix."""
        products = self.matrices @ vector
        shares = torch.stack([self.space.coefficients(against, each) for each in products])
        if sketch is not None:
            shares = torch.cat([shares, torch.stack([sketch(each) for each in products])], dim=1)
        return self.matvec(vector), shares

    @property
    def part_weights(self) -> np.ndarray:
        """All alike."""
        return np.full(len(self.matrices), 1 / len(self.matrices))


class MatrixTerms(Terms):
    """Dense matrices that add up to one.

    Args:
        operator: that one.
    """

    def __init__(self, operator: MatrixOperator) -> None:
        self.operator, self.space, self.number = operator, operator.space, len(operator.matrices)

    @property
    def ranges(self) -> list[range]:
        """All of them together."""
        return [range(self.number)]

    def products(self, terms: range, vectors: torch.Tensor) -> torch.Tensor:
        """A_t v_t, in one go."""
        self.operator.num_products += len(terms) / self.number
        self.operator.data_passes += len(terms) / self.number
        return torch.bmm(self.operator.matrices[terms.start : terms.stop], vectors[:, :, None])[:, :, 0]

    def whole_product(self, vector: torch.Tensor) -> torch.Tensor:
        """A v."""
        return self.operator.matvec(vector)
