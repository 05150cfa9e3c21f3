"""A matrix cut to some coordinates."""

from __future__ import annotations

from functools import cached_property

import torch

from curvtool.errors import UsageError
from curvtool.linalg.space import VectorSpace
from curvtool.operators.base import LinearOperator, Steps
from curvtool.operators.mapped import MappedOperator


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
