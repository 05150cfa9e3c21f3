"""Jacobian norms of a batch of examples: from all rows, or by Lanczos and probes in its complement."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from curvtool.estimators.accuracy.norms import cosines_of_pairs, missed_top, top_within
from curvtool.linalg.batched_lanczos import BatchedTop, largest_eigenvalues
from curvtool.linalg.space import VectorSpace
from curvtool.linalg.usable import powers_of_two
from curvtool.operators.jacobian import InputJacobian
from curvtool.operators.products import LinearizedFunction

NUM_PROBES = {"both": 16, "frobenius": 12}
DEFLATED = 4  # Lanczos steps before the probes, where no spectral norm is asked for
_SPECTRAL_RTOL = 1e-3  # of the squared norm: a bound that holds for equal singular values too
_SPECTRAL_PRODUCTS = 60
_SIGN_STEPS = 6


@dataclass
class Batch:
    """Norms of one batch of examples.

    Attributes:
        units: what the next two are in the square of: those of small norms would be 0.
        kept: the part of ||J||_F^2 that is known.
        rest: the part by probes, the mean of their squares.
        cosines: mean squared cosine of its probes, which tells its degrees of freedom.
        frobenius: ||J||_F from all rows.
        spectral: ||J||_2.
        spectral_error: how far the true norm may lie above it.
        spectral_reach: likewise, for all examples of the data together with 95 %.
    """

    units: np.ndarray | None = None
    kept: np.ndarray | None = None
    rest: np.ndarray | None = None
    cosines: np.ndarray | None = None
    frobenius: np.ndarray | None = None
    spectral: np.ndarray | None = None
    spectral_error: np.ndarray | None = None
    spectral_reach: np.ndarray | None = None
    linf_lower: np.ndarray | None = None
    linf_upper: np.ndarray | None = None
    num_vjps: float = 0.0
    num_jvps: float = 0.0
    converged: bool = True

    @property
    def largest(self) -> np.ndarray:
        """Norms to tell while the work goes on: the first that are known, shape (n,)."""
        known = self.spectral if self.spectral is not None else self.frobenius
        if known is not None:
            return known
        assert self.units is not None and self.kept is not None and self.rest is not None
        return self.units * np.sqrt(self.kept + self.rest)


def exact_batch(jacobian: InputJacobian, rows: range, norm: str, linf: bool = False) -> Batch:
    """From all rows, or all columns where these are fewer."""
    by_rows = jacobian.output_dim <= jacobian.input_dim
    batch = Batch(num_vjps=float(jacobian.output_dim)) if by_rows else Batch(num_jvps=float(jacobian.input_dim))
    frobenius, spectral, bounds = [], [], []
    an_example = jacobian.output_dim * jacobian.input_dim * (jacobian.problem.dtype.itemsize + 16)  # a float64 copy too
    for piece in _pieces(jacobian, rows, an_example):
        matrices = jacobian.dense_of(jacobian.linearize(piece), len(piece)).double()
        units = powers_of_two(matrices.abs().amax((1, 2)))  # squares of small entries would be 0
        matrices = matrices / units[:, None, None]
        gram = matrices @ matrices.mT if by_rows else matrices.mT @ matrices
        if linf:
            bounds.append(units * _linf_bounds(matrices, gram, by_rows))
        if norm != "spectral":
            frobenius.append(units * gram.diagonal(dim1=1, dim2=2).sum(1).sqrt())
        if norm != "frobenius":
            spectral.append(units * torch.linalg.eigvalsh(gram)[:, -1].clamp_min(0).sqrt())
    if bounds:
        batch.linf_lower, batch.linf_upper = torch.cat(bounds, dim=1).cpu().numpy()
    batch.frobenius = torch.cat(frobenius).cpu().numpy() if frobenius else None
    batch.spectral = torch.cat(spectral).cpu().numpy() if spectral else None
    return batch


def _linf_bounds(matrices: torch.Tensor, gram: torch.Tensor, by_rows: bool) -> torch.Tensor:
    """Bounds on max ||J v||_2 over |v_j| <= 1, shape (2, n).

    Below: v = sign(J^T J v) from the leading right singular vector, which never falls (Boyd 1974). Above: the least of
    sqrt(d) ||J||_2 and the root of the sum of the rows' squared l1 norms.
    """
    values, vectors = torch.linalg.eigh(gram)
    lead = vectors[:, :, -1:]
    direction = matrices.mT @ lead if by_rows else lead
    best = torch.zeros(len(matrices), dtype=matrices.dtype, device=matrices.device)
    for _ in range(_SIGN_STEPS):
        image = matrices @ torch.where(direction >= 0, 1.0, -1.0).to(matrices.dtype)
        best = torch.maximum(best, torch.linalg.vector_norm(image, dim=(1, 2)))
        direction = matrices.mT @ image
    by_spectrum = (values[:, -1].clamp_min(0) * matrices.shape[2]).sqrt()
    by_rows_norm = matrices.abs().sum(2).square().sum(1).sqrt()
    return torch.stack([best, torch.minimum(by_spectrum, by_rows_norm)])


def _pieces(jacobian: InputJacobian, rows: range, bytes_an_example: int) -> Iterator[range]:
    """The batch cut so that what is held of a piece stays within half the budget."""
    size = max(1, min(len(rows), jacobian.memory_budget // 2 // bytes_an_example))
    for start in range(rows.start, rows.stop, size):
        yield range(start, min(start + size, rows.stop))


def estimated_batch(jacobian: InputJacobian, rows: range, norm: str, seed: int) -> Batch:
    """||J||_2 by Lanczos on J J^T, and ||J||_F^2 as its part in that Krylov space plus probes in the complement.

    The start and the probes are drawn apart, so that the estimate of ||J||_F^2 is unbiased; a Jacobian whose rank is
    below the number of steps is known to rounding.
    """
    probes = NUM_PROBES.get(norm, 0)
    itemsize = jacobian.problem.dtype.itemsize
    steps = min(_SPECTRAL_PRODUCTS, jacobian.output_dim) + 2
    an_example = probes * jacobian.input_dim * (itemsize + 8) + steps * jacobian.output_dim * itemsize
    parts = [(len(piece), _estimated(jacobian, piece, norm, seed)) for piece in _pieces(jacobian, rows, an_example)]
    batch = Batch(converged=all(part.converged for _, part in parts))
    for name in ("units", "kept", "rest", "cosines", "spectral", "spectral_error", "spectral_reach"):
        found = [getattr(part, name) for _, part in parts]
        setattr(batch, name, None if found[0] is None else np.concatenate(found))
    batch.num_vjps = sum(count * part.num_vjps for count, part in parts) / len(rows)
    batch.num_jvps = sum(count * part.num_jvps for count, part in parts) / len(rows)
    return batch


def _estimated(jacobian: InputJacobian, rows: range, norm: str, seed: int) -> Batch:
    linear = jacobian.linearize(rows)
    dim = linear.output.shape[1]
    of_example = VectorSpace(dim, linear.output.dtype, linear.output.device)
    rtol = max(_SPECTRAL_RTOL, 64 * of_example.eps)  # bfloat16 knows no better
    gram = GramProducts(linear)
    with jacobian.problem.context(len(rows)):
        top = largest_eigenvalues(
            gram,
            of_example.normals(seed, 6, rows=rows),
            max_products=DEFLATED if norm == "frobenius" else _SPECTRAL_PRODUCTS,
            settled=None if norm == "frobenius" else partial(top_within, dim=dim, rtol=rtol),
        )
        batch = Batch(num_vjps=top.num_products, num_jvps=top.num_products)
        if norm != "spectral":
            _probe(batch, gram, top, of_example, rows, NUM_PROBES[norm], seed)
    if norm != "frobenius":
        value, units = top.ritz.values.sqrt(), gram.units.double().cpu()
        eps = 0.0 if top.num_products == dim else of_example.eps
        chances = {"spectral_error": {}, "spectral_reach": {"probability": 0.05 / jacobian.problem.num_samples}}
        for name, chance in chances.items():
            excess = missed_top(top.ritz, dim, eps, **chance)
            setattr(batch, name, (units * ((top.ritz.values + excess).sqrt() - value)).numpy())
        batch.spectral = (units * value).numpy()
        batch.converged = bool(top.converged.all())
    return batch


class GramProducts:
    """u -> J J^T u / s^2 of each example, its unit s next to the size of the first J^T u, shape (n,): J J^T has the
    squares of J, and small ones would be 0.

    Args:
        linear: J of n examples.
    """

    def __init__(self, linear: LinearizedFunction) -> None:
        self.linear = linear
        self.units = torch.empty(0)

    def __call__(self, vectors: torch.Tensor) -> torch.Tensor:
        """From (n, C) to (n, C)."""
        pulled = self.linear.vjp(vectors)
        if not len(self.units):
            self.units = powers_of_two(pulled.abs().amax(1))
        return self.linear.jvp(pulled / self.units[:, None]) / self.units[:, None]


def _probe(
    batch: Batch,
    gram: GramProducts,
    top: BatchedTop,
    of_example: VectorSpace,
    rows: range,
    num_probes: int,
    seed: int,
) -> None:
    """The batch's Frobenius norms: the trace of J J^T over the basis, and Gaussian probes in its complement."""
    pulled = []
    for probe in range(num_probes):
        vector = of_example.normals(seed, 5, probe, rows=rows)
        for _ in range(2):  # once leaves rounding errors of the leading direction
            vector = vector - torch.einsum("nj,njc->nc", torch.einsum("njc,nc->nj", top.basis, vector), top.basis)
        pulled.append(gram.linear.vjp(vector) / gram.units[:, None])
    stacked = torch.stack(pulled, dim=1).double()
    inner = stacked @ stacked.mT
    batch.num_vjps += num_probes
    batch.kept = top.captured.clamp_min(0.0).numpy()
    batch.units = gram.units.double().cpu().numpy()
    batch.rest = inner.diagonal(dim1=1, dim2=2).mean(1).cpu().numpy()
    batch.cosines = cosines_of_pairs(inner).cpu().numpy()
