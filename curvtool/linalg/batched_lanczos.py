"""Lanczos for many small symmetric operators at once: the largest eigenvalue of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class BatchedTop:
    """Attributes:
    values: largest Ritz value of each operator, shape (n,), float64 on the host.
    residuals: its residual norm, shape (n,).
    num_products: products with all n operators.
    converged: which operators met the tolerance, shape (n,).
    """

    values: torch.Tensor
    residuals: torch.Tensor
    num_products: int
    converged: torch.Tensor


def largest_eigenvalues(
    matvec: Callable[[torch.Tensor], torch.Tensor],
    start: torch.Tensor,
    *,
    rtol: float,
    max_products: int,
) -> BatchedTop:
    """The largest eigenvalue of each of n symmetric positive semidefinite operators, by Lanczos in step.

    Full reorthogonalisation, two passes; the small eigenproblems are solved in float64 on the host. An operator is
    through once the estimated error of its Ritz value, min(r, r^2/gap), is at most rtol times the value at three
    successive products, and its value is the one that it had then, whatever the others still need.

    Args:
        matvec: (n, C) -> (n, C), a product with every operator.
        start: random start, shape (n, C).
        rtol: relative error of each eigenvalue.
        max_products: products after which it stops.
    """
    num, dim = start.shape
    steps = min(max_products, dim)
    basis = torch.zeros(num, steps + 1, dim, dtype=start.dtype, device=start.device)
    basis[:, 0] = start / torch.linalg.vector_norm(start, dim=1, keepdim=True)
    small = torch.zeros(num, steps, steps, dtype=torch.float64)
    in_a_row = torch.zeros(num, dtype=torch.int64)
    found_values, found_residuals = (torch.zeros(num, dtype=torch.float64) for _ in range(2))
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
        basis[:, j + 1] = image / norm.clamp_min(tiny)[:, None]
        numbers = torch.cat([column + correction, norm[:, None]], dim=1).to(device="cpu", dtype=torch.float64)
        small[:, : j + 1, j] = small[:, j, : j + 1] = numbers[:, :-1]
        beta = numbers[:, -1]
        values, vectors = torch.linalg.eigh(small[:, : j + 1, : j + 1])
        top = values[:, -1]
        spent = beta <= 8 * torch.finfo(start.dtype).eps * top.abs()  # an invariant subspace: the value is exact
        if j + 1 == dim:
            spent |= True
        residual = torch.where(spent, 0.0, beta * vectors[:, -1, -1].abs())
        if j:
            gap = top - values[:, -2] - beta * vectors[:, -1, -2].abs()
        else:
            gap = torch.zeros_like(top)
        error = torch.where(gap > residual, residual**2 / gap.clamp_min(1e-300), residual)
        good = spent | ((error <= rtol * top.abs()) & (j > 0))
        in_a_row = torch.where(good, in_a_row + 1, 0)
        found_values = torch.where(done, found_values, top)
        found_residuals = torch.where(done, found_residuals, residual)
        done = done | spent | (in_a_row >= 3)
        if bool(done.all()):
            break
    return BatchedTop(found_values.clamp_min(0.0), found_residuals, j + 1, done)
