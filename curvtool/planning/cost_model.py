"""Time and memory of one product on several ranks, as formulas; docs/planning.md holds them against measurements.

P parameters on R ranks; a rank's piece of a vector has p = ceil(P/R) numbers of s bytes. On one rank nothing travels.
"""

from __future__ import annotations

from dataclasses import dataclass

from curvtool.operators.distribution import MAX_PARTS

DEFAULT_BANDWIDTH = 25e9  # bytes/s a rank, each way: a port of 200 Gbit/s InfiniBand for each device
DEFAULT_LATENCY = 5e-5  # seconds a collective: tens of microseconds over a few machines

# a step of Lanczos: the coefficients and a norm, each twice, and whether a rank was asked to stop
SMALL_SUMS = 5

# what a product holds beside the parameters and the basis, in vectors of P
VECTORS_ADDED = 3  # the running sum, the last batch's product and the one that is made
VECTORS_ON_RANKS = 5  # while it is reduced: vector, running sum, last product, the sum dealt out, the backend's copy
MODULE_TERMS = 2  # of the largest module: terms of its product that are added up

# parameters sharded: what passes for each batch, in vectors of P, tensor by tensor
SHARDED_GATHERS = 5  # weights forward, weights backward, the vector, weights twice in the second backward pass
SHARDED_SCATTERS = 3  # the gradient's, and two terms of the product's
SHARDED_MODULES = 6  # whole modules at once: four gathered, and one to be scattered with its pieces dealt out


@dataclass(frozen=True)
class SecondsByPart:
    """Attributes:
    compute: differentiating, on the rank with most samples.
    traffic: P numbers gathered and P scattered, at the bandwidth.
    latency: what collectives take however little they carry.
    vectors: orthogonalisation against the basis.
    """

    compute: float
    traffic: float
    latency: float
    vectors: float

    @property
    def total(self) -> float:
        """Their sum: nothing overlaps."""
        return self.compute + self.traffic + self.latency + self.vectors


@dataclass(frozen=True)
class BytesByPart:
    """Attributes:
    parameters: the weights.
    working: vectors that a product holds at its peak.
    basis: this rank's pieces of the basis.
    graphs: kept graphs with their gradients, or the graph of one batch.
    """

    parameters: int
    working: int
    basis: int
    graphs: int

    @property
    def total(self) -> int:
        """Their sum."""
        return self.parameters + self.working + self.basis + self.graphs


@dataclass(frozen=True)
class ClusterModel:
    """One product of a matrix over P parameters, and the step of Lanczos around it, on R ranks.

    Args:
        num_params: P.
        itemsize: s, bytes a number.
        num_samples: N.
        product_seconds: t, of one product over all N samples on one device.
        ranks: R.
        bandwidth: B, bytes/s that a rank sends while it receives as many.
        latency: l, seconds that a collective takes at least.
        row_seconds: w, of meeting one basis vector of P numbers in one pass of Gram-Schmidt on one device.
        rows_met: how many of them a step meets on average.
        basis_vectors: m, those that there is room for.
        basis_itemsize: bytes a number of theirs; s if None.
        batch_size: b, samples a batch.
        graph_bytes_per_sample: g, of a graph that is kept.
        graph_budget: G, bytes for kept graphs on a rank.
        keeps_graphs: whether graphs are kept from one product to the next.
        largest_module: M, numbers of the largest module's parameters.
        num_tensors: parameter tensors, which are gathered one by one where parameters are sharded.
        sharded: whether the parameters are cut over the ranks too.
        exchanged: whether vectors are cut over the ranks; where each group of samples has a probe of its own
            (Hutchinson's trace, diagonals) every rank has whole ones, and scalars alone travel.
        devices: those that the ranks share evenly, as R processes a machine's c cores; one each if None.
        num_frozen: F, parameters that take no part.
    """

    num_params: int
    itemsize: int
    num_samples: int
    product_seconds: float
    ranks: int = 1
    bandwidth: float = DEFAULT_BANDWIDTH
    latency: float = DEFAULT_LATENCY
    row_seconds: float = 0.0
    rows_met: float = 0.0
    basis_vectors: int = 0
    basis_itemsize: int | None = None
    batch_size: int = 1
    graph_bytes_per_sample: int = 0
    graph_budget: int = 0
    keeps_graphs: bool = False
    largest_module: int = 0
    num_tensors: int = 1
    sharded: bool = False
    exchanged: bool = True
    devices: int | None = None
    num_frozen: int = 0

    @property
    def share(self) -> int:
        """Samples of the rank that has most: n = ceil(N/R)."""
        return -(-self.num_samples // self.ranks)

    @property
    def num_batches(self) -> int:
        """Its batches: ceil(n/b)."""
        return -(-self.share // self.batch_size)

    @property
    def piece(self) -> int:
        """Numbers of a vector on the rank that has most: p = ceil(P/R), or P where vectors are not cut."""
        return -(-self.num_params // self.ranks) if self.exchanged else self.num_params

    @property
    def gathered_bytes(self) -> int:
        """Put together from all ranks in a product: s R p, the vector with its padding.

        Parameters sharded: as many times `SHARDED_GATHERS` for each batch.
        """
        return self._passing_bytes * (SHARDED_GATHERS * self.num_batches if self.sharded else 1)

    @property
    def scattered_bytes(self) -> int:
        """Added up over the ranks, each of which gets its piece: s R p.

        Parameters sharded: as many times `SHARDED_SCATTERS` for each batch.
        """
        return self._passing_bytes * (SHARDED_SCATTERS * self.num_batches if self.sharded else 1)

    @property
    def _passing_bytes(self) -> int:
        return self.itemsize * self.ranks * self.piece if self.ranks > 1 and self.exchanged else 0

    @property
    def num_collectives(self) -> int:
        """Of a step: the gather, the scatter and `SMALL_SUMS`; one sum where only scalars travel.

        Parameters sharded: a gather or scatter for each tensor, so at most (`SHARDED_GATHERS` + `SHARDED_SCATTERS`) x
        tensors for each batch, beside the sums.
        """
        if self.ranks == 1:
            return 0
        if not self.exchanged:
            return 1
        if self.sharded:
            return (SHARDED_GATHERS + SHARDED_SCATTERS) * self.num_tensors * self.num_batches + SMALL_SUMS
        return 2 + SMALL_SUMS

    @property
    def seconds(self) -> SecondsByPart:
        """Seconds of one product with its step.

        compute = t n/N c, traffic = (gathered + scattered) (R-1)/R / B: a ring passes each piece R - 1 times, so a
        gather and a scatter of P numbers are one all-reduce; latency = l x collectives; vectors = 2 w rows p/P c for
        the two passes of Gram-Schmidt. c = max(1, R/devices) where ranks share devices, else 1. One rank alone meets
        the basis with every part of the data as well, half a pass each.
        """
        slowdown = 1.0 if self.devices is None else max(1.0, self.ranks / self.devices)
        passes = 2.0 if self.ranks > 1 else 2 + min(self.num_batches, MAX_PARTS) / 2
        passing = (self.gathered_bytes + self.scattered_bytes) * (self.ranks - 1) / self.ranks
        return SecondsByPart(
            compute=self.product_seconds * self.share / self.num_samples * slowdown,
            traffic=passing / self.bandwidth,
            latency=self.latency * self.num_collectives,
            vectors=passes * self.row_seconds * self.rows_met * self.piece / self.num_params * slowdown,
        )

    @property
    def bytes(self) -> BytesByPart:
        """Bytes of one rank at the peak of a product.

        parameters = s (P + F), basis = m p x its itemsize, graphs = g x the samples whose graphs G holds + s P for the
        gradient of each batch of them, or g min(b, n) where none is kept. working is the larger of what
        differentiating takes, s (a P + 2 M), and the reduction, s (5 P + p): a = 3, one more for a gradient whose graph
        is not kept, and one more for the vector, on several ranks.

        Parameters sharded: p in the place of P throughout, ceil(F/R) in that of F, a = 5, and s 6 M for modules that
        are whole at a time.
        """
        item, own, whole = self.itemsize, self.piece, self.num_params
        held, frozen, num_vectors = whole, self.num_frozen, VECTORS_ADDED + (not self.keeps_graphs)
        if self.sharded:
            held, frozen = own, -(-frozen // self.ranks)
            working = VECTORS_ON_RANKS * own + SHARDED_MODULES * self.largest_module
        elif self.ranks == 1 or not self.exchanged:
            working = num_vectors * whole + MODULE_TERMS * self.largest_module
        else:
            differentiating = (num_vectors + 1) * whole + MODULE_TERMS * self.largest_module
            working = max(differentiating, VECTORS_ON_RANKS * whole + own)
        return BytesByPart(
            parameters=item * (held + frozen),
            working=item * working,
            basis=self.basis_vectors * own * (self.basis_itemsize or item),
            graphs=self._graph_bytes(item * held),
        )

    def _graph_bytes(self, gradient_bytes: int) -> int:
        each = self.graph_bytes_per_sample
        if not self.keeps_graphs:
            return each * min(self.batch_size, self.share)
        kept = min(self.num_batches, self.graph_budget // max(each * self.batch_size, 1))
        return each * min(kept * self.batch_size, self.share) + kept * gradient_bytes
