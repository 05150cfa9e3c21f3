"""D A D for a diagonal matrix D."""

from __future__ import annotations

from functools import cached_property

import torch

from curvtool.errors import UsageError
from curvtool.operators.base import LinearOperator, Steps
from curvtool.operators.mapped import MappedOperator


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

    @property
    def stretch(self) -> float:
        """By the root mean square of d: an error of rounding has no direction."""
        return float(self.space.norm(self.diagonal)) / self.space.dim**0.5

    def _members_vanished(self) -> float:
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
