"""Operators made of others: what they count, and how exact their products are."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch

from curvtool.linalg.space import VectorSpace
from curvtool.operators.base import LinearOperator


class WrappedOperator(LinearOperator):
    """An operator around others, whose products and passes are its own.

    Args:
        members: the operators inside.
        space: the space of the result; that of the first member if None.
    """

    def __init__(self, members: Sequence[LinearOperator], space: VectorSpace | None = None) -> None:
        self.members = list(members)
        super().__init__(space or self.members[0].space)

    @property
    def noise(self) -> float:
        """The error of the members' products over that of the whole, which may cancel or be deflated: measured once,
        by a product with a random vector."""
        if self._noise is None:
            error, size = self._measured
            self._noise = error / size if size > 0 else 0.0  # of nothing there is no share: see `vanished`
        return max(self._noise, self.space.eps)

    @noise.setter
    def noise(self, measured: float | None) -> None:
        self._noise = measured

    @cached_property
    def _measured(self) -> tuple[float, float]:
        """What the members' errors add to the product with a random vector, and how large that product is: norms."""
        vector = self.space.normal(0, 7, 1)
        return self._error_along(vector), float(self.space.norm(self.matvec(vector)))

    def vanished(self) -> float:
        """Where the members cancel to nothing, what their errors may hide: as large as those on a unit vector."""
        error, size = self._measured
        return self._members_vanished() if size > 0 or error == 0 else max(error, self._members_vanished())

    def _members_vanished(self) -> float:
        return max(member.vanished() for member in self.members)

    def _error_along(self, vector: torch.Tensor) -> float:
        """The norm of what the members' errors add to the product with the vector."""
        return sum(member.noise * float(member.space.norm(member.matvec(vector))) for member in self.members)

    @property
    def num_products(self) -> float:
        """The members' products."""
        return sum(member.num_products for member in self.members)

    @num_products.setter
    def num_products(self, value: float) -> None:
        """The members count."""

    @property
    def data_passes(self) -> float:
        """The members' passes."""
        return sum(member.data_passes for member in self.members)

    @data_passes.setter
    def data_passes(self, value: float) -> None:
        """The members count."""

    def credit(self, num_products: float, data_passes: float, seconds: float) -> None:
        """Counts what a run that was stopped had done."""
        self.members[0].credit(num_products, data_passes, 0.0)
        self.seconds_before += seconds
