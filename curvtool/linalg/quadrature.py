"""Gauss quadrature from Lanczos: the spectral measure of a symmetric matrix seen from one vector."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from curvtool.linalg.lanczos import Lanczos, Product
from curvtool.linalg.ritz import RitzPairs
from curvtool.linalg.space import VectorSpace


@dataclass(frozen=True)
class Quadrature:
    """Attributes:
    nodes: Ritz values, ascending, shape (m,).
    weights: squared first components of their coefficient vectors, adding up to 1, shape (m,).
    is_exact: whether the nodes are the eigenvalues themselves, the Krylov space being exhausted.
    """

    nodes: np.ndarray
    weights: np.ndarray
    is_exact: bool = False


def lanczos_quadrature(
    product: Product,
    space: VectorSpace,
    num_steps: int,
    generator: torch.Generator,
    locked: torch.Tensor | None = None,
) -> Quadrature:
    """m nodes and weights with sum_j w_j f(theta_j) = v^T f(A) v for polynomials f up to degree 2m - 1.

    v is uniform on the unit sphere (of the complement of the locked vectors), so that the mean over v is tr f(A) / P.
    Golub & Meurant 1994; Ubaru, Chen, Saad 2017 (SIAM J. Matrix Anal. Appl. 38(4)).

    Args:
        product: v, Q -> A v and what `Lanczos` records beside it.
        space: the space of the vectors.
        num_steps: m, products; memory is m + 1 vectors.
        generator: draws v.
        locked: orthonormal vectors (l, P) to leave out.
    """
    lanczos = Lanczos(product, space, num_steps, generator, locked=locked)

    def never(pairs: RitzPairs, number: int) -> np.ndarray:
        raise AssertionError("the basis is as large as the number of steps")

    pairs = lanczos.step(never)
    while lanczos.size < min(num_steps, lanczos.dim):
        pairs = lanczos.step(never)
    return Quadrature(pairs.values, pairs.coefficients[0] ** 2, lanczos.exhausted)


def smoothed(quadrature: Quadrature, grid: np.ndarray, width: float) -> np.ndarray:
    """sum_j w_j N(t; theta_j, width^2) at every grid point t, shape (len(grid),)."""
    distances = (grid[:, None] - quadrature.nodes) / width
    return np.exp(-(distances**2) / 2) @ quadrature.weights / (width * np.sqrt(2 * np.pi))


def cumulative(quadrature: Quadrature, points: np.ndarray) -> np.ndarray:
    """The mass below every point, a node counting half of its weight at itself; and between which bounds it lies.

    By the inequalities of Chebyshev, Markov and Stieltjes the measure below the k-th node lies between the weights of
    the nodes before it and the same with its own: so between two nodes it is known up to the weights of both.

    Args:
        quadrature: nodes and weights.
        points: shape (n,).

    Returns:
        The least, the estimated and the largest mass, shape (3, n).
    """
    sums = np.concatenate([[0.0], np.cumsum(quadrature.weights)])
    first = np.searchsorted(quadrature.nodes, points, side="left")  # nodes below the point
    last = np.searchsorted(quadrature.nodes, points, side="right")  # and those at it
    middle = (sums[first] + sums[last]) / 2
    if quadrature.is_exact:
        return np.stack([middle, middle, middle])
    at_node = last > first
    low = np.where(at_node, sums[first], sums[np.maximum(first - 1, 0)])
    high = np.where(at_node, sums[last], sums[np.minimum(first + 1, len(quadrature.nodes))])
    return np.stack([low, middle, high])
