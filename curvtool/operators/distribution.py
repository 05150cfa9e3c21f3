"""How the ranks of a group share a matrix that is a sum over samples: by the samples, or by the parameters too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

from curvtool.cluster.solo import Solo
from curvtool.linalg.space import VectorSpace
from curvtool.operators.data_sum import even_pieces_of, pieces_of
from curvtool.problem.scattering import MOST_PARTS, part_size, parts_of

if TYPE_CHECKING:
    from curvtool.problem.problem import Problem

MAX_PARTS = MOST_PARTS  # of the data whose shares of a product are told apart


class SharedSamples:
    """Each rank has all parameters and its own samples, and cuts of the vectors; one process alone has all.

    A product is one all-gather of its vector and one reduce-scatter of the result, together as much as one all-reduce
    of P numbers. Every term is one rank's own, so that of probes scalars travel alone.

    Args:
        problem: whose samples and parameters these are.
        cluster: the ranks.

    Attributes:
        space: of the vectors, of which each rank holds a part.
        probe_space: of the vectors that terms are multiplied by, all coordinates on every rank.
        sum_space: of the sums over a rank's own samples, which it reduces.
        term_space: of the sums over a term's samples.
    """

    def __init__(self, problem: Problem, cluster: Solo) -> None:
        self.cluster, self.num_samples = cluster, problem.num_samples
        self._whole = problem.statistics_batch or 1
        self.keeps_order = problem.keeps_order
        self.space = self.sum_space = VectorSpace(problem.num_trainable, problem.dtype, problem.device, cluster)
        self.probe_space = self.term_space = VectorSpace(problem.num_trainable, problem.dtype, problem.device)

    @property
    def terms_are_everyones(self) -> bool:
        """Whether every rank takes part in every term, as one process alone does."""
        return self.cluster.size == 1

    @property
    def keeps_graphs_of_terms(self) -> bool:
        """Whether the graphs of a term's samples may be kept."""
        return True

    @property
    def samples(self) -> range:
        """This rank's: places in the scattered order, or rows where the problem keeps its order; whole batches where
        these have statistics."""
        share = self.cluster.share(-(-self.num_samples // self._whole))
        own = range(*(min(end * self._whole, self.num_samples) for end in (share.start, share.stop)))
        return own if self.keeps_order else range(own.start + self.num_samples, own.stop + self.num_samples)

    def batches(self, size: int) -> list[list[range]]:
        """This rank's samples of each part of the data, at most so many at a time; a part may have none of them here.

        Parts depend on the number of samples alone where that leaves a choice; where the order is kept, they are
        batches.
        """
        of_part = part_size(self.num_samples)
        if self.keeps_order or not of_part:
            return _in_parts(pieces_of(self.samples, size))
        own = self.samples
        found = [
            range(max(part.start, own.start), min(part.stop, own.stop)) for part in parts_of(self.num_samples, of_part)
        ]
        return [even_pieces_of(part, size) if part else [] for part in found]

    def own_terms(self, number: int) -> range:
        """Which of so many terms this rank multiplies."""
        return self.cluster.share(number)

    def rows_of_term(self, rows: range) -> range:
        """What of a term's samples this rank takes."""
        return rows

    def argument(self, vectors: torch.Tensor) -> torch.Tensor:
        """Vectors of `space` as a batch's product takes them."""
        return self.space.whole(vectors)

    def term_argument(self, vectors: torch.Tensor) -> torch.Tensor:
        """Vectors of `space` as a term's product takes them: of `probe_space`."""
        return self.space.whole(vectors)

    def from_terms(self, total: torch.Tensor) -> torch.Tensor:
        """The vector of `space` that is the sum over the ranks of their terms' products."""
        return self.space.reduced(total)

    def of_all_terms(self, numbers: torch.Tensor) -> torch.Tensor:
        """Numbers of all terms from those of each rank's own, zero for the others."""
        return self.cluster.sum(numbers)

    def partners(self, vectors: torch.Tensor, budget: int) -> torch.Tensor:
        """Vectors of `space` to meet a rank's part of a product; none where they take more bytes than the budget."""
        if self.cluster.size == 1 or not len(vectors):
            return vectors
        return self.space.whole(vectors) if len(vectors) * self.space.whole_bytes <= budget else vectors[:0]

    def coefficients(self, partners: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
        """Inner products of partners with a sum over a rank's own samples: (m,)."""
        return self.probe_space.coefficients(partners, total)

    @property
    def parts_are_everyones(self) -> bool:
        """Whether every rank has samples of the same parts of the data; else each has parts of its own."""
        return not self.keeps_order and part_size(self.num_samples) > 0

    def of_all_parts(self, shares: torch.Tensor) -> torch.Tensor:
        """The sums over the ranks (B, m); or those of this rank's own parts (b, m) followed by the others', (B, m)."""
        if self.cluster.size == 1:
            return shares
        if self.parts_are_everyones:
            return self.cluster.sum(shares)
        counts = [int(n) for n in self.cluster.gather(torch.tensor([len(shares)]))]
        padded = shares.new_zeros(MAX_PARTS, shares.shape[1])
        padded[: len(shares)] = shares
        everyone = self.cluster.gather(padded)
        return torch.cat([rows[:num] for rows, num in zip(everyone, counts, strict=True)])

    def part_weights(self, own: Sequence[float]) -> list[float]:
        """The weights of all parts, in the order of `of_all_parts`."""
        if self.parts_are_everyones and self.cluster.size > 1:
            summed: list[float] = self.cluster.sum(torch.tensor(list(own), dtype=torch.float64)).tolist()
            return summed
        return [weight for each in self.cluster.gather_objects(list(own)) for weight in each]


def _in_parts(batches: list[range]) -> list[list[range]]:
    """The batches as parts, neighbours together where there are more than `MAX_PARTS`."""
    edges = [len(batches) * i // MAX_PARTS for i in range(MAX_PARTS + 1)]
    return [batches[start:stop] for start, stop in pairwise(edges) if stop > start]


class SharedParameters(SharedSamples):
    """Each rank has a piece of every parameter, and its own samples of every batch and of every term.

    The model gathers its parameters where it reads them, and derivatives come out summed over the ranks and cut; so
    nothing else is reduced. Every rank runs the same number of batches, empty ones (a sample times 0) where it has none
    left, and parts of the data are batches of all ranks together.
    """

    def __init__(self, problem: Problem, cluster: Solo) -> None:
        self.cluster, self.num_samples, self._whole = cluster, problem.num_samples, 1
        self.keeps_order = problem.keeps_order
        sizes = [shape.numel() for shape in problem.shapes.values()]
        self.space = VectorSpace(sum(sizes), problem.dtype, problem.device, cluster, sizes)
        self.probe_space = self.space
        self.sum_space = self.term_space = VectorSpace(self.space.size, problem.dtype, problem.device)

    @property
    def terms_are_everyones(self) -> bool:
        """They are."""
        return True

    @property
    def keeps_graphs_of_terms(self) -> bool:
        """No: a term's samples may be a batch's on one rank alone, which would then gather less than the others."""
        return False

    def batches(self, size: int) -> list[list[range]]:
        """As many on every rank; the last ones may be empty, each in a place of its own."""
        found, largest = pieces_of(self.samples, size), math.ceil(self.num_samples / self.cluster.size)
        most = math.ceil(largest / size)
        return _in_parts(found + [range(place, place) for place in range(len(found), most)])

    def own_terms(self, number: int) -> range:
        """All of them."""
        return range(number)

    def rows_of_term(self, rows: range) -> range:
        """This rank's share of them, which may be none."""
        share = self.cluster.share(len(rows))
        return range(rows.start + share.start, rows.start + share.stop)

    def argument(self, vectors: torch.Tensor) -> torch.Tensor:
        """The pieces themselves."""
        return vectors

    def term_argument(self, vectors: torch.Tensor) -> torch.Tensor:
        """The pieces themselves."""
        return vectors

    def from_terms(self, total: torch.Tensor) -> torch.Tensor:
        """Summed over the ranks already."""
        return total

    def of_all_terms(self, numbers: torch.Tensor) -> torch.Tensor:
        """Every rank has them all."""
        return numbers

    def partners(self, vectors: torch.Tensor, budget: int) -> torch.Tensor:
        """The pieces themselves."""
        return vectors

    def coefficients(self, partners: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
        """Over all ranks' coordinates."""
        return self.space.coefficients(partners, total)

    def of_all_parts(self, shares: torch.Tensor) -> torch.Tensor:
        """Every rank has them all."""
        return shares

    def part_weights(self, own: Sequence[float]) -> list[float]:
        """The sums over the ranks."""
        weights: list[float] = self.cluster.sum(torch.tensor(list(own), dtype=torch.float64)).tolist()
        return weights
