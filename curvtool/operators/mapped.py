"""L^T A L + s I for a matrix A and a linear map L: what shifted, deflated, preconditioned and cut ones share."""

from __future__ import annotations

import numpy as np
import torch

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
        image = self.operator.matvec(self.into(vector))
        return self.operator.noise * float(self.operator.space.norm(image)) * self.stretch

    @property
    def stretch(self) -> float:
        """How much longer L^T makes the error of A's product."""
        return 1.0

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
