"""The terms of a mean over samples: the matrices of groups of samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from curvtool.errors import OutOfMemory, UsageError
from curvtool.linalg.space import VectorSpace
from curvtool.operators.data_sum import mean_over_batches, pieces_of, split
from curvtool.operators.terms import Terms

if TYPE_CHECKING:
    from curvtool.operators.curvature import CurvatureOperator
    from curvtool.problem.problem import Problem


def default_group_size(num_samples: int) -> int:
    """Samples of a term, from 8 to 32: the more terms, the less spread a pass has, but the smaller its products are.

    Fixed by the data, not by the device, the batch or timings, so that the same seed gives the same probes everywhere.
    """
    return max(8, min(32, num_samples // 32))


def group_size_of(problem: Problem, asked: int | None) -> int:
    """Samples of a term.

    Raises:
        UsageError: CT003, groups that would cut a batch whose statistics are taken.
    """
    size, whole = asked or default_group_size(problem.num_samples), problem.statistics_batch
    if whole is None:
        return size
    if asked is not None and asked % whole and asked < problem.num_samples:
        raise UsageError(
            "CT003",
            "groups with a probe each cannot cut the batches of --batch-norm batch",
            expected=f"a multiple of the batch size, {whole}",
            received=f"--probe-group {asked}",
            remedy=f"--probe-group {-(-asked // whole) * whole}, or leave it out",
        )
    return max(1, size // whole) * whole if asked is None else asked


class SampleTerms(Terms):
    """A_t = (1/W) sum over the samples of group t; on several ranks each has groups of its own, or a share of each.

    Args:
        operator: the matrix, which holds the groups and runs the products.
    """

    def __init__(self, operator: CurvatureOperator) -> None:
        self.operator, self.shared, self.stack = operator, operator.shared, operator.stack
        self.number = len(operator.groups)

    @property
    def space(self) -> VectorSpace:  # type: ignore[override]
        """All coordinates on every rank, where a term's product is one rank's alone."""
        return self.shared.probe_space

    @property
    def ranges(self) -> list[range]:
        """As many of this rank's groups of one size at once as run in one go; a shorter last one by itself."""
        own = self.shared.own_terms(self.number)
        full = min(own.stop, self.stack.num_full)
        rest = [range(full, own.stop)] if full < own.stop else []
        return [*pieces_of(range(own.start, full), self.stack.height), *rest]

    def products(self, terms: range, vectors: torch.Tensor) -> torch.Tensor:
        """A_t v_t of consecutive groups of one size, in one go: shape (len(terms), P)."""
        if len(terms) == 1:
            return self._of_one(terms.start, vectors[0])[None]
        operator = self.operator
        rows = self.stack.rows(terms)
        result = self.space.zeros(len(terms))
        try:
            parts = operator.execution.product(rows, split(vectors, operator.shapes), height=len(terms))
        except OutOfMemory:
            parts = None
        if parts is None:  # out of the handler, which holds what failed
            self.stack.shrink()
            half = len(terms) // 2
            pairs = (terms[:half], vectors[:half]), (terms[half:], vectors[half:])
            return torch.cat([self.products(some, theirs) for some, theirs in pairs])
        for view, part in zip(split(result, operator.shapes), parts, strict=True):
            if part is not None:
                view.copy_(part)
        self._count(len(rows))
        return result.div_(operator.problem.total_weight)

    def _of_one(self, term: int, vector: torch.Tensor) -> torch.Tensor:
        operator = self.operator
        rows = operator.groups[term]
        parts = split(vector, operator.shapes)
        self._count(len(rows))
        own = self.shared.rows_of_term(rows)
        return mean_over_batches(
            self.shared.term_space,
            operator.shapes,
            pieces_of(own, operator.batch_size) or [own],
            lambda piece: operator.batch_product(piece, parts, self.shared.keeps_graphs_of_terms),
            operator.problem.total_weight,
        )

    def argument(self, vectors: torch.Tensor) -> torch.Tensor:
        """All coordinates, where terms are one rank's own."""
        return self.shared.term_argument(vectors)

    def total(self, sums: torch.Tensor) -> torch.Tensor:
        """The sum over the ranks."""
        return self.shared.from_terms(sums)

    def of_all(self, numbers: torch.Tensor) -> torch.Tensor:
        """All ranks' together."""
        self._count_joined()
        return self.shared.of_all_terms(numbers)

    def whole_product(self, vector: torch.Tensor) -> torch.Tensor:
        """A v from the terms' products, where these run in one go and faster than the batches do."""
        if not self.operator.whole_by_terms:
            return self.operator.matvec(vector)
        whole, sums = self.argument(vector), self.space.zeros()
        for terms in self.ranges:
            sums += self.products(terms, whole.expand(len(terms), -1)).sum(0)
        self._count_joined()
        return self.total(sums)

    def _count(self, num_samples: int) -> None:
        """A product of a term. Where each rank has its own, all of them together are counted when they are joined, so
        that the ranks' counts are alike."""
        if self.shared.terms_are_everyones:
            self.operator.count_products(num_samples / self.operator.problem.num_samples)

    def _count_joined(self) -> None:
        if not self.shared.terms_are_everyones:
            self.operator.count_products(1)
