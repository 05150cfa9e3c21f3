"""Gauss quadrature from Lanczos: the spectral measure of a symmetric matrix seen from one vector."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from curvtool.linalg.lanczos import Lanczos
from curvtool.linalg.space import VectorSpace


@dataclass(frozen=True)
class Quadrature:
    """Attributes:
    nodes: Ritz values, ascending, shape (m,).
    weights: squared first components of their coefficient vectors, adding up to 1, shape (m,).
    is_exact: whether the nodes are the eigenvalues themselves, the Krylov space being exhausted.
    couplings: the Ritz vectors' residual norms, with the sign that makes their first components positive, shape (m,);
        None where they are not known.
    """

    nodes: np.ndarray
    weights: np.ndarray
    is_exact: bool = False
    couplings: np.ndarray | None = None


def lanczos_quadratures(
    matmat: Callable[[torch.Tensor], torch.Tensor],
    space: VectorSpace,
    num_steps: int,
    seeds: Sequence[tuple[int, ...]],
    deflated: torch.Tensor | None = None,
) -> Iterator[list[Quadrature]]:
    """For each of n vectors v, m nodes and weights with sum_j w_j f(theta_j) = v^T f(A) v for polynomials f up to
    degree 2m - 1.

    v is uniform on the unit sphere (of the complement of the deflated vectors), so that the mean over v is tr f(A) / P.
    Golub & Meurant 1994; Ubaru, Chen, Saad 2017 (SIAM J. Matrix Anal. Appl. 38(4)).

    Args:
        matmat: V -> A V, a product a row of (n, P).
        space: the space of the vectors.
        num_steps: m, products a vector; memory is m + 1 vectors each.
        seeds: of the vectors v, a tuple each.
        deflated: orthonormal vectors (l, P) to leave out.

    Yields:
        The quadratures after each step, of one node more each time; the last ones are whole.
    """
    yield from QuadraturesInStep(matmat, space, num_steps, seeds, deflated).steps()


class QuadraturesInStep:
    """The same as something that can be put back to where it was; the arguments are those of `lanczos_quadratures`."""

    def __init__(
        self,
        matmat: Callable[[torch.Tensor], torch.Tensor],
        space: VectorSpace,
        num_steps: int,
        seeds: Sequence[tuple[int, ...]],
        deflated: torch.Tensor | None = None,
    ) -> None:
        self.matmat = matmat
        self.runs = [Lanczos(_unused, space, num_steps, each, deflated=deflated) for each in seeds]
        self.num_steps = min(num_steps, self.runs[0].dim)

    def state(self) -> dict[str, Any]:
        """All runs' states."""
        return {"runs": [run.state() for run in self.runs]}

    def restore(self, state: dict[str, Any]) -> None:
        """Puts them back."""
        for run, each in zip(self.runs, state["runs"], strict=True):
            run.restore(each)

    @property
    def quadratures(self) -> list[Quadrature]:
        """Those of the steps so far."""
        return [_quadrature(run) for run in self.runs]

    def steps(self) -> Iterator[list[Quadrature]]:
        """The quadratures after each further step, until the last one."""
        while self.runs[0].num_steps < self.num_steps:
            images = self.matmat(torch.stack([run.next_vector for run in self.runs]))
            for run, image in zip(self.runs, images, strict=True):
                run.grow(image, image.new_empty(0, run.size + 1))
            yield self.quadratures


def _quadrature(run: Lanczos) -> Quadrature:
    pairs = run.ritz_pairs()
    weights = pairs.coefficients[0] ** 2
    if run.exhausted:
        return Quadrature(pairs.values, weights, is_exact=True)
    couplings = np.where(pairs.coefficients[0] < 0, -1.0, 1.0) * (run.coupling @ pairs.coefficients)[0]
    return Quadrature(pairs.values, weights, couplings=couplings)


def _unused(vector: torch.Tensor, against: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    raise AssertionError("the products are made for all vectors together")


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


def mass_bounds(quadrature: Quadrature, points: np.ndarray) -> np.ndarray:
    """The sharpest bounds on the mass below every point that Lanczos leaves: the least and the largest, shape (2, n).

    The m nodes and the last coupling fix 2m moments beside the mass. Of all measures with these moments the one with a
    node at t, of m + 1 nodes in all (Gauss-Radau), has the least mass below t and the largest mass up to t (Chebyshev,
    Markov, Stieltjes; Akhiezer, The Classical Moment Problem, 1965, section 2.5). In the basis of Ritz vectors its
    matrix is an arrow: the nodes, the couplings c, and the corner t + sum_j c_j^2 / (theta_j - t). Where t is a node
    but for rounding, the corner is not known, and the bounds are those of `cumulative`.

    Args:
        quadrature: nodes, weights and couplings.
        points: t, shape (n,).
    """
    bounds = cumulative(quadrature, points)[[0, 2]]
    if quadrature.is_exact or quadrature.couplings is None:
        return bounds
    nodes, couplings = quadrature.nodes, quadrature.couplings
    size, starts = len(nodes), np.append(np.sqrt(quadrature.weights), 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        corners = points + (couplings**2 / (nodes - points[:, None])).sum(1)
    largest = max(float(np.abs(nodes).max()), 1e-300)
    usable = np.flatnonzero(np.abs(corners) < _WIDEST_CORNER * (largest + np.abs(points)))
    arrows = np.zeros((len(usable), size + 1, size + 1))
    arrows[:, np.arange(size), np.arange(size)] = nodes
    arrows[:, size, :size] = couplings  # eigh reads the lower triangle
    arrows[:, size, size] = corners[usable]
    sums = np.cumsum((starts @ np.linalg.eigh(arrows)[1]) ** 2, axis=1)
    sums = np.concatenate([np.zeros((len(usable), 1)), sums], axis=1)
    below = np.searchsorted(nodes, points[usable])  # the new nodes lie between the old ones
    rows = np.arange(len(usable))
    bounds[:, usable] = np.stack([sums[rows, below], np.minimum(sums[rows, below + 1], 1.0)])
    return bounds


_WIDEST_CORNER = 1e6  # times the largest node: beyond it, rounding moves the other nodes
