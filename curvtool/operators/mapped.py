"""L^T A L + s I for a matrix A and a linear map L: shifted, deflated, preconditioned, cut to some coordinates."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch

from curvtool.errors import UsageError
from curvtool.linalg.sketch import Sketch, SketchOfImage
from curvtool.linalg.space import VectorSpace
from curvtool.operators.base import LinearOperator, Steps
from curvtool.operators.terms import Terms
from curvtool.operators.wrapped import WrappedOperator


class MappedOperator(WrappedOperator):
    """L^T A L + s I; a subclass says what L is. Parts of the data, terms, blocks of vectors and ranks stay those of A.

    All maps take vectors (..., P) in one go.

    Args:
        operator: A.
        shift: s.
        space: of the vectors that L takes; A's if None.
    """

    def __init__(self, operator: LinearOperator, shift: float = 0.0, space: VectorSpace | None = None) -> None:
        super().__init__([operator], space)
        self.operator, self.shift = operator, shift

    def into(self, vectors: torch.Tensor) -> torch.Tensor:
        """L v, of A's space."""
        return vectors

    def out(self, images: torch.Tensor) -> torch.Tensor:
        """L^T u, back."""
        return images

    @property
    def term_space(self) -> VectorSpace:
        """Of the vectors that L takes where it goes to those of A's terms."""
        return self.operator.terms.space

    def into_terms(self, vectors: torch.Tensor) -> torch.Tensor:
        """L v, of the space of A's terms."""
        return self.into(vectors)

    def out_of_terms(self, images: torch.Tensor) -> torch.Tensor:
        """L^T u, back."""
        return self.out(images)

    def prepare_terms(self) -> None:
        """Where the ranks make together what `into_terms` takes: a rank without terms would be waited for there."""

    def _shifted(self, images: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        return images if self.shift == 0 else images + self.shift * vectors

    def _error_along(self, vector: torch.Tensor) -> float:
        """The error of A's product has no direction: what L^T makes of it is what it makes of a random vector."""
        inner = self.operator.space
        size = self.operator.noise * float(inner.norm(self.operator.matvec(self.into(vector))))
        random = inner.normal(0, 7, 2)
        return size * float(self.space.norm(self.out(random))) / float(inner.norm(random))

    def matvec(self, vector: torch.Tensor) -> torch.Tensor:
        """L^T A L v + s v."""
        return self._shifted(self.out(self.operator.matvec(self.into(vector))), vector)

    @property
    def block_width(self) -> int:
        """That of A."""
        return self.operator.block_width

    def matmat(self, vectors: torch.Tensor) -> torch.Tensor:
        """L^T A L v + s v for each row v."""
        return self._shifted(self.out(self.operator.matmat(self.into(vectors))), vectors)

    def precise_matvec(self, vector: torch.Tensor) -> torch.Tensor | None:
        """In float64, where A has that."""
        exact = vector.double()
        image = self.operator.precise_matvec(self.into(exact))
        return None if image is None else self._shifted(self.out(image), exact)

    def matvec_in_parts(
        self, vector: torch.Tensor, against: torch.Tensor, sketch: Sketch | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The product, and what each part of the data adds to it; of the shift a part has its weight's share."""
        mapped = None if sketch is None else SketchOfImage(sketch, self.out)
        image, shares = self.operator.matvec_in_parts(self.into(vector), self.into(against), mapped)
        image = self._shifted(self.out(image), vector)
        if len(shares) and self.shift != 0:
            own = self.space.coefficients(against, vector)
            own = own if sketch is None else torch.cat([own, sketch(vector)])
            weights = torch.as_tensor(self.part_weights).to(shares)
            shares = shares + self.shift * weights[:, None] * own
        return image, shares

    @property
    def part_weights(self) -> np.ndarray:
        """Those of A."""
        return self.operator.part_weights

    @property
    def terms(self) -> Terms:
        """L^T A_t L + (s/T) I."""
        self.prepare_terms()
        return MappedTerms(self)

    @property
    def rank_bound(self) -> int:
        """That of A, where there is no shift."""
        return min(self.space.dim, self.operator.rank_bound) if self.shift == 0 else self.space.dim

    def vanished(self) -> float:
        """That of A, where L keeps lengths or shortens them."""
        return self.operator.vanished()


class MappedTerms(Terms):
    """L^T A_t L + (s/T) I, from A's terms.

    Args:
        operator: L^T A L + s I.
    """

    def __init__(self, operator: MappedOperator) -> None:
        self.operator, self.inner = operator, operator.operator.terms
        self.number, self.space = self.inner.number, operator.term_space

    @property
    def ranges(self) -> list[range]:
        """Those of A."""
        return self.inner.ranges

    def products(self, terms: range, vectors: torch.Tensor) -> torch.Tensor:
        """L^T A_t L v_t + (s/T) v_t."""
        images = self.operator.out_of_terms(self.inner.products(terms, self.operator.into_terms(vectors)))
        return images if self.operator.shift == 0 else images + (self.operator.shift / self.number) * vectors

    @property
    def _are_whole(self) -> bool:
        """Whether each rank has all coordinates of the terms' vectors, and a part of the matrix'."""
        return self.space.cluster.size < self.operator.space.cluster.size

    def argument(self, vectors: torch.Tensor) -> torch.Tensor:
        """All coordinates, where terms are one rank's own."""
        return self.operator.space.whole(vectors) if self._are_whole else vectors

    def total(self, sums: torch.Tensor) -> torch.Tensor:
        """The sum over the ranks, where terms are one rank's own."""
        return self.operator.space.reduced(sums) if self._are_whole else sums

    def of_all(self, numbers: torch.Tensor) -> torch.Tensor:
        """As A's."""
        return self.inner.of_all(numbers)

    def whole_product(self, vector: torch.Tensor) -> torch.Tensor:
        """By A's."""
        image = self.operator.out(self.inner.whole_product(self.operator.into(vector)))
        return image if self.operator.shift == 0 else image + self.operator.shift * vector


class ShiftedOperator(MappedOperator):
    """A + s I; every term takes an equal share of the shift.

    Args:
        operator: A.
        shift: s.
    """

    name = "shifted"

    def __init__(self, operator: LinearOperator, shift: float) -> None:
        super().__init__(operator, shift)

    @property
    def diagonal_cost(self) -> int:
        """That of A."""
        return self.operator.diagonal_cost

    def exact_diagonal(self, steps: Steps | None = None) -> torch.Tensor:
        """diag(A) + s."""
        return self.operator.exact_diagonal(steps) + self.shift


class PreconditionedOperator(MappedOperator):
    """D A D for a diagonal matrix D: what A is in the parameters theta = D phi.

    With D = P^-1/2 for the diagonal preconditioner P of an optimizer, its eigenvalues are those of P^-1 A.

    Args:
        operator: A.
        diagonal: d, a vector of A's space, shape (P,): this rank's part of it.

    Raises:
        UsageError: CT001, another length, or numbers that are not finite.
    """

    name = "preconditioned"

    def __init__(self, operator: LinearOperator, diagonal: torch.Tensor) -> None:
        super().__init__(operator)
        space = operator.space
        if tuple(diagonal.shape) != (space.size,) or not bool(torch.isfinite(diagonal).all()):
            raise UsageError(
                "CT001",
                "no such diagonal",
                expected=f"{space.size} finite numbers",
                received=f"a tensor of shape {tuple(diagonal.shape)}"
                + ("" if bool(torch.isfinite(diagonal).all()) else " with numbers that are not finite"),
            )
        self.diagonal = diagonal.to(space.device, space.dtype)

    @cached_property
    def _of_terms(self) -> torch.Tensor:
        return self.operator.terms.argument(self.diagonal)

    def prepare_terms(self) -> None:
        """All coordinates of d, where terms are one rank's own."""
        _ = self._of_terms

    def into(self, vectors: torch.Tensor) -> torch.Tensor:
        """d_i v_i."""
        return self.diagonal * vectors

    def out(self, images: torch.Tensor) -> torch.Tensor:
        """d_i u_i."""
        return self.diagonal * images

    def into_terms(self, vectors: torch.Tensor) -> torch.Tensor:
        """d_i v_i."""
        return self._of_terms * vectors

    def out_of_terms(self, images: torch.Tensor) -> torch.Tensor:
        """d_i u_i."""
        return self._of_terms * images

    def vanished(self) -> float:
        """That of A, as the largest d lengthens it twice."""
        largest = float(self.diagonal.abs().max()) if len(self.diagonal) else 0.0
        return self.operator.vanished() * max(self.space.cluster.gather_objects(largest)) ** 2

    @property
    def diagonal_cost(self) -> int:
        """That of A."""
        return self.operator.diagonal_cost

    def exact_diagonal(self, steps: Steps | None = None) -> torch.Tensor:
        """d_i^2 A_ii."""
        return self.operator.exact_diagonal(steps) * self.diagonal.square()


class DeflatedOperator(MappedOperator):
    """(I - V^T V) A (I - V^T V) for orthonormal rows V: what is left of A beside known eigenvectors.

    Args:
        operator: A.
        vectors: V, shape (k, P), orthonormal: this rank's part of them.

    Raises:
        UsageError: CT001, the rows are not orthonormal, or of another length.
    """

    name = "deflated"

    def __init__(self, operator: LinearOperator, vectors: torch.Tensor) -> None:
        super().__init__(operator)
        space = operator.space
        if vectors.dim() != 2 or vectors.shape[1] != space.size:
            raise UsageError(
                "CT001", "vectors of another size", expected=f"(k, {space.size})", received=str(tuple(vectors.shape))
            )
        self.vectors = vectors.to(space.device, space.dtype)
        gram = space.gram(self.vectors, self.vectors)
        deviation = float((gram - torch.eye(len(gram), dtype=gram.dtype, device=gram.device)).abs().max())
        if deviation > space.eps**0.5:
            raise UsageError(
                "CT001",
                "the vectors are not orthonormal",
                expected="V V^T = I",
                received=f"a deviation of {deviation:.1e}",
                remedy="torch.linalg.qr(vectors.T).Q.T",
            )

    @cached_property
    def _of_terms(self) -> torch.Tensor:
        return self.operator.terms.argument(self.vectors)

    @staticmethod
    def _beside(space: VectorSpace, known: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        rows, known = vectors.reshape(-1, vectors.shape[-1]), known.to(vectors.dtype)
        return (rows - space.gram(rows, known) @ known).reshape(vectors.shape)

    def prepare_terms(self) -> None:
        """All coordinates of V, where terms are one rank's own."""
        _ = self._of_terms

    def into(self, vectors: torch.Tensor) -> torch.Tensor:
        """v - V^T V v."""
        return self._beside(self.space, self.vectors, vectors) if vectors.numel() else vectors

    def out(self, images: torch.Tensor) -> torch.Tensor:
        """The same."""
        return self.into(images)

    def into_terms(self, vectors: torch.Tensor) -> torch.Tensor:
        """The same, of the terms' space."""
        return self._beside(self.term_space, self._of_terms, vectors)

    def out_of_terms(self, images: torch.Tensor) -> torch.Tensor:
        """The same."""
        return self.into_terms(images)


class BlockOperator(MappedOperator):
    """A restricted to some coordinates: the diagonal block of a layer or of a group of parameters.

    A matrix over fewer parameters (`Problem.with_parameters`) has the same numbers and costs less; this one takes any
    coordinates of any operator.

    Args:
        operator: A.
        index: the coordinates among all P, shape (n,), without repetition; the same on every rank.

    Raises:
        UsageError: CT001, coordinates out of range or repeated.
    """

    name = "block"

    def __init__(self, operator: LinearOperator, index: torch.Tensor) -> None:
        whole = operator.space
        index = index.to(whole.device)
        in_range = index.dim() == 1 and len(index) and int(index.min()) >= 0 and int(index.max()) < whole.dim
        if not in_range or len(index.unique()) != len(index):
            raise UsageError(
                "CT001",
                "no such coordinates",
                expected=f"different numbers from 0 to {whole.dim - 1}",
                received=str(index[:5].tolist()),
            )
        super().__init__(operator, space=VectorSpace(len(index), whole.dtype, whole.device, whole.cluster))
        self.index = index
        number = torch.full((whole.dim,), -1, dtype=torch.long, device=whole.device)
        number[index] = torch.arange(len(index), device=whole.device)
        number = whole.part(number)
        self._places = (number >= 0).nonzero()[:, 0]  # in this rank's part of A's vectors
        self._numbers = number[self._places]  # among the block's coordinates

    @cached_property
    def term_space(self) -> VectorSpace:
        """All n coordinates on every rank, where A's terms take all P."""
        whole = self.operator.terms.space
        if whole.cluster.size == self.space.cluster.size:
            return self.space
        return VectorSpace(len(self.index), whole.dtype, whole.device)

    def into(self, vectors: torch.Tensor) -> torch.Tensor:
        """The vector among all coordinates, zero elsewhere."""
        own = self.space.whole(vectors)[..., self._numbers]
        zeros = torch.zeros(*vectors.shape[:-1], self.operator.space.size, dtype=own.dtype, device=own.device)
        return zeros.index_copy(-1, self._places, own)

    def out(self, images: torch.Tensor) -> torch.Tensor:
        """u_I."""
        own = torch.zeros(*images.shape[:-1], self.space.dim, dtype=images.dtype, device=images.device)
        return self.space.reduced(own.index_copy(-1, self._numbers, images[..., self._places]))

    def into_terms(self, vectors: torch.Tensor) -> torch.Tensor:
        """The same, of the terms' space."""
        if self.term_space is self.space:
            return self.into(vectors)
        zeros = torch.zeros(*vectors.shape[:-1], self.operator.space.dim, dtype=vectors.dtype, device=vectors.device)
        return zeros.index_copy(-1, self.index, vectors)

    def out_of_terms(self, images: torch.Tensor) -> torch.Tensor:
        """Likewise."""
        return self.out(images) if self.term_space is self.space else images[..., self.index]

    @property
    def diagonal_cost(self) -> int:
        """That of A, or a product an entry where that is less."""
        return min(self.operator.diagonal_cost, self.space.dim)

    def exact_diagonal(self, steps: Steps | None = None) -> torch.Tensor:
        """diag(A)_I, or by products with unit vectors."""
        if self.operator.diagonal_cost > self.space.dim:
            return super().exact_diagonal(steps)
        return self.out(self.operator.exact_diagonal(steps))
