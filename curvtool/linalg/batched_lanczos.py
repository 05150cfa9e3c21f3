"""Lanczos for many small symmetric operators at once: the largest eigenvalue of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class RitzTops:
    """What the iteration knows of the top of each of n spectra; float64 on the host.

    Attributes:
        values: largest Ritz value, shape (n,).
        others: the other Ritz values, shape (n, j); minus infinity where an operator has fewer.
        residuals: residual norm of the largest one, shape (n,).
        weights: |<start, Ritz vector>| of the largest one for a start of norm one, shape (n,).
        spent: the Krylov space is invariant: the residual is rounding alone, shape (n,).
    """

    values: torch.Tensor
    others: torch.Tensor
    residuals: torch.Tensor
    weights: torch.Tensor
    spent: torch.Tensor


@dataclass(frozen=True)
class BatchedTop:
    """Attributes:
    ritz: what is known of each operator at the product where it was done.
    basis: orthonormal vectors of the Krylov spaces, shape (n, num_products, C); zero once an operator was done.
    captured: trace of each operator over its basis, shape (n,), float64 on the host.
    num_products: products with all n operators.
    converged: which operators met the tolerance, shape (n,).
    """

    ritz: RitzTops
    basis: torch.Tensor
    captured: torch.Tensor
    num_products: int
    converged: torch.Tensor


def largest_eigenvalues(
    matvec: Callable[[torch.Tensor], torch.Tensor],
    start: torch.Tensor,
    *,
    max_products: int,
    settled: Callable[[RitzTops], torch.Tensor] | None = None,
) -> BatchedTop:
    """The largest eigenvalue of each of n symmetric positive semidefinite operators, by Lanczos in step.

    Full reorthogonalisation, two passes; the small eigenproblems are solved in float64 on the host. An operator is done
    once `settled` holds for it at two successive products, or its Krylov space is invariant. What is returned for it is
    what it had then, whatever the others still need: its numbers do not depend on them.

    Args:
        matvec: (n, C) -> (n, C), a product with every operator.
        start: random start, shape (n, C).
        max_products: products after which it stops.
        settled: which operators are known well enough, shape (n,); None: make all the products.
    """
    num, dim = start.shape
    steps = min(max_products, dim)
    basis = torch.zeros(num, steps + 1, dim, dtype=start.dtype, device=start.device)
    basis[:, 0] = start / torch.linalg.vector_norm(start, dim=1, keepdim=True)
    small = torch.zeros(num, steps, steps, dtype=torch.float64)
    in_a_row = torch.zeros(num, dtype=torch.int64)
    ritz = _nothing(num, steps - 1)
    done = torch.zeros(num, dtype=torch.bool)
    tiny = torch.finfo(start.dtype).tiny
    for j in range(steps):
        image = matvec(basis[:, j])
        held = basis[:, : j + 1]
        column = torch.einsum("njc,nc->nj", held, image)
        image = image - torch.einsum("nj,njc->nc", column, held)
        correction = torch.einsum("njc,nc->nj", held, image)
        image = image - torch.einsum("nj,njc->nc", correction, held)
        norm = torch.linalg.vector_norm(image, dim=1)
        numbers = torch.cat([column + correction, norm[:, None]], dim=1).to(device="cpu", dtype=torch.float64)
        small[:, : j + 1, j] = small[:, j, : j + 1] = numbers[:, :-1]
        now = _of_small(
            small[:, : j + 1, : j + 1], numbers[:, -1], steps - 1, torch.finfo(start.dtype).eps, j + 1 == dim
        )
        if settled is not None:
            in_a_row = torch.where(settled(now) & (j > 0), in_a_row + 1, 0)
        ritz = _chosen(done, ritz, now)
        done = done | now.spent | (in_a_row >= 2)
        if bool(done.all()):
            break
        alive = torch.where(done, 0.0, 1.0).to(dtype=start.dtype, device=start.device)
        basis[:, j + 1] = image / norm.clamp_min(tiny)[:, None] * alive[:, None]
    captured = small.diagonal(dim1=1, dim2=2).sum(1)
    return BatchedTop(ritz, basis[:, : j + 1], captured, j + 1, done)


def _of_small(small: torch.Tensor, beta: torch.Tensor, room: int, eps: float, whole: bool) -> RitzTops:
    """From the projected operators (n, j, j) and the norms of what lies outside of the Krylov spaces, (n,)."""
    values, vectors = torch.linalg.eigh(small)
    top = values[:, -1]
    spent = beta <= 8 * eps * top.abs()
    if whole:
        spent = torch.ones_like(spent)
    others = torch.full((len(top), room), -torch.inf, dtype=torch.float64)
    others[:, : values.shape[1] - 1] = values[:, :-1]
    residuals = torch.where(spent, 0.0, beta * vectors[:, -1, -1].abs())
    return RitzTops(top.clamp_min(0.0), others, residuals, vectors[:, 0, -1].abs(), spent)


def _nothing(num: int, room: int) -> RitzTops:
    zeros = torch.zeros(num, dtype=torch.float64)
    return RitzTops(
        zeros, torch.zeros(num, room, dtype=torch.float64), zeros, zeros, torch.zeros(num, dtype=torch.bool)
    )


def _chosen(old: torch.Tensor, before: RitzTops, now: RitzTops) -> RitzTops:
    """What an operator had before where `old`, else what it has now."""

    def of(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return torch.where(old.view(-1, *[1] * (first.dim() - 1)), first, second)

    return RitzTops(*(of(getattr(before, name), getattr(now, name)) for name in RitzTops.__annotations__))
