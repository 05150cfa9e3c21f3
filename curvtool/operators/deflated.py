"""A matrix beside known eigenvectors."""

from __future__ import annotations

from functools import cached_property

import torch

from curvtool.errors import UsageError
from curvtool.linalg.space import VectorSpace
from curvtool.operators.base import LinearOperator
from curvtool.operators.mapped import MappedOperator


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
        space = space.in_double() if vectors.dtype == torch.float64 else space  # as a precise product has them
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
