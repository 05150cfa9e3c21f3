"""Operators added up, and scaled."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import torch

from curvtool.errors import UsageError
from curvtool.linalg.sketch import Sketch
from curvtool.operators.base import LinearOperator, Steps
from curvtool.operators.terms import OneTerm, Terms
from curvtool.operators.wrapped import WrappedOperator


class SumOperator(WrappedOperator):
    """c_1 A_1 + c_2 A_2 + ...; its terms are all members' terms, scaled, where these take the same vectors.

    Args:
        members: operators on the same space.
        factors: c; ones if None.

    Raises:
        UsageError: CT001, no member, or sizes that differ.
    """

    name = "sum"

    def __init__(self, members: Sequence[LinearOperator], factors: Sequence[float] | None = None) -> None:
        if not members or len({member.space.dim for member in members}) > 1:
            raise UsageError(
                "CT001",
                "only operators of one size can be added up",
                expected="one size",
                received=", ".join(str(member.space.dim) for member in members) or "none",
            )
        super().__init__(members)
        self.factors = [1.0] * len(members) if factors is None else list(factors)

    def _error_along(self, vector: torch.Tensor) -> float:
        pairs = zip(self.factors, self.members, strict=True)
        return sum(abs(c) * member.noise * float(self.space.norm(member.matvec(vector))) for c, member in pairs)

    def _members_vanished(self) -> float:
        return sum(abs(c) * member.vanished() for c, member in zip(self.factors, self.members, strict=True))

    def _added(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        total = self.factors[0] * parts[0]
        for factor, part in zip(self.factors[1:], parts[1:], strict=True):
            total.add_(part, alpha=factor)
        return total

    def matvec(self, vector: torch.Tensor) -> torch.Tensor:
        """sum_j c_j A_j v."""
        return self._added([member.matvec(vector) for member in self.members])

    @property
    def block_width(self) -> int:
        """The least of the members'."""
        return min(member.block_width for member in self.members)

    def matmat(self, vectors: torch.Tensor) -> torch.Tensor:
        """sum_j c_j A_j v for each row v."""
        return self._added([member.matmat(vectors) for member in self.members])

    def precise_matvec(self, vector: torch.Tensor) -> torch.Tensor | None:
        """In float64, where all members have that."""
        parts = [member.precise_matvec(vector) for member in self.members]
        found = [part for part in parts if part is not None]
        return self._added(found) if len(found) == len(parts) else None

    def matvec_in_parts(
        self, vector: torch.Tensor, against: torch.Tensor, sketch: Sketch | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A v and its parts, where all members tell the same parts of the data apart."""
        pairs = [member.matvec_in_parts(vector, against, sketch) for member in self.members]
        total = self._added([image for image, _ in pairs])
        shapes = {shares.shape for _, shares in pairs}
        if len(self.part_weights) == 0 or len(shapes) > 1:
            return total, against.new_empty(0, len(against))
        return total, self._added([shares for _, shares in pairs])

    @property
    def part_weights(self) -> np.ndarray:
        """The members' own, where they are the same."""
        weights = [member.part_weights for member in self.members]
        alike = all(w.shape == weights[0].shape and np.allclose(w, weights[0]) for w in weights)
        return weights[0] if alike else np.empty(0)

    @property
    def terms(self) -> Terms:
        """All members' terms; the sum alone where these differ in the vectors that they take, as on ranks they may."""
        members = [member.terms for member in self.members]
        spaces = {(each.space.dim, each.space.cluster.size, each.space.segments) for each in members}
        return SumOfTerms(members, self.factors) if len(spaces) == 1 else OneTerm(self)

    @property
    def rank_bound(self) -> int:
        """The sum of the members'."""
        return min(self.space.dim, sum(member.rank_bound for member in self.members))

    @property
    def diagonal_cost(self) -> int:
        """The members' together, or a product an entry where that is less."""
        return min(self.space.dim, sum(member.diagonal_cost for member in self.members))

    def exact_diagonal(self, steps: Steps | None = None) -> torch.Tensor:
        """sum_j c_j diag(A_j), or by products with unit vectors where these are fewer."""
        if len(self.members) == 1:
            return self.factors[0] * self.members[0].exact_diagonal(steps)
        if sum(member.diagonal_cost for member in self.members) >= self.space.dim:
            return super().exact_diagonal(steps)
        steps = steps or Steps()
        total = self.space.zeros() if steps.so_far is None else steps.so_far
        for number in steps.left(len(self.members)):
            total = total + self.factors[number] * self.members[number].exact_diagonal()
            steps.advance(number + 1, total)
        return total


class ScaledOperator(SumOperator):
    """c A.

    Args:
        operator: A.
        factor: c.
    """

    name = "scaled"

    def __init__(self, operator: LinearOperator, factor: float) -> None:
        super().__init__([operator], [factor])


class SumOfTerms(Terms):
    """All terms of c_1 A_1 + c_2 A_2 + ..., one matrix' after the other's.

    Args:
        members: the matrices' terms, on one space.
        factors: c.
    """

    def __init__(self, members: Sequence[Terms], factors: Sequence[float]) -> None:
        self.members, self.factors = list(members), list(factors)
        ends = list(accumulate(member.number for member in members))
        self._places = [range(end - member.number, end) for end, member in zip(ends, members, strict=True)]
        self.number, self.space = ends[-1], members[0].space

    @property
    def ranges(self) -> list[range]:
        """Those of each."""
        pairs = zip(self._places, self.members, strict=True)
        return [
            range(place.start + own.start, place.start + own.stop) for place, member in pairs for own in member.ranges
        ]

    def products(self, terms: range, vectors: torch.Tensor) -> torch.Tensor:
        """c_j A_jt v_t."""
        found = []
        for place, factor, member in zip(self._places, self.factors, self.members, strict=True):
            own = range(max(terms.start, place.start), min(terms.stop, place.stop))
            if own:
                theirs = vectors[own.start - terms.start : own.stop - terms.start]
                images = member.products(range(own.start - place.start, own.stop - place.start), theirs)
                found.append(images.mul_(factor))
        return found[0] if len(found) == 1 else torch.cat(found)

    def argument(self, vectors: torch.Tensor) -> torch.Tensor:
        """As the members', whose vectors lie on the ranks alike."""
        return self.members[0].argument(vectors)

    def total(self, sums: torch.Tensor) -> torch.Tensor:
        """Likewise."""
        return self.members[0].total(sums)

    def of_all(self, numbers: torch.Tensor) -> torch.Tensor:
        """Each of its own."""
        pairs = zip(self._places, self.members, strict=True)
        return torch.cat([member.of_all(numbers[place.start : place.stop].clone()) for place, member in pairs])

    def whole_product(self, vector: torch.Tensor) -> torch.Tensor:
        """sum_j c_j A_j v."""
        total = torch.zeros_like(vector)
        for factor, member in zip(self.factors, self.members, strict=True):
            total.add_(member.whole_product(vector), alpha=factor)
        return total
