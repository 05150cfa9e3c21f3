"""A matrix as a sum, A = sum_t A_t, each term multiplied by a vector of its own: what random probes gain by.

On several ranks a term is either one rank's own, which then has all coordinates of its vectors, or everyone's. So terms
have a space of vectors of their own, and say how to come there and back. They are light: made whenever they are asked
for, and hold nothing but what they are the terms of.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch

from curvtool.linalg.space import VectorSpace

if TYPE_CHECKING:
    from curvtool.operators.base import LinearOperator


class Terms(ABC):
    """The terms of a matrix.

    Attributes:
        number: T, of all ranks together.
        space: of the vectors that terms are multiplied by.
    """

    number: int
    space: VectorSpace

    @property
    def ranges(self) -> list[range]:
        """This rank's terms in order, cut into ranges whose products are best taken together."""
        return [range(term, term + 1) for term in range(self.number)]

    @abstractmethod
    def products(self, terms: range, vectors: torch.Tensor) -> torch.Tensor:
        """A_t v_t for consecutive terms of this rank, a vector each: (len(terms), P), a new tensor of that shape."""

    def product(self, term: int, vector: torch.Tensor) -> torch.Tensor:
        """A_t v for one term of this rank: shape (P,)."""
        return self.products(range(term, term + 1), vector[None])[0]

    def argument(self, vectors: torch.Tensor) -> torch.Tensor:
        """Vectors of the matrix' space as those of the terms'."""
        return vectors

    def total(self, sums: torch.Tensor) -> torch.Tensor:
        """A vector of the matrix' space from the sum of what this rank's terms gave."""
        return sums

    def of_all(self, numbers: torch.Tensor) -> torch.Tensor:
        """Numbers of all terms (T, n) from those of this rank's terms, zero for the others."""
        return numbers

    @abstractmethod
    def whole_product(self, vector: torch.Tensor) -> torch.Tensor:
        """A v of the matrix' space, for who takes the terms' products too: what these hold may serve both."""


class OneTerm(Terms):
    """A matrix that is known as a whole alone.

    Args:
        operator: the matrix.
    """

    number = 1

    def __init__(self, operator: LinearOperator) -> None:
        self.operator, self.space = operator, operator.space

    def products(self, terms: range, vectors: torch.Tensor) -> torch.Tensor:
        """A v for each row v."""
        return torch.stack([self.operator.matvec(vector) for vector in vectors])

    def whole_product(self, vector: torch.Tensor) -> torch.Tensor:
        """A v."""
        return self.operator.matvec(vector)
