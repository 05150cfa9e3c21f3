"""Gauss quadrature from Lanczos: exact for polynomials up to degree 2m - 1."""

import numpy as np
import pytest
import torch
from oracles import integral

from curvtool import MatrixOperator
from curvtool.linalg.quadrature import Quadrature, cumulative, lanczos_quadratures, smoothed


def operator(dim=40):
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    return MatrixOperator((matrix + matrix.T) / dim**0.5)


def quadrature(made, num_steps, seed, deflated=None):
    *_, ((found,)) = lanczos_quadratures(made.matmat, made.space, num_steps, [(seed,)], deflated)
    return found


def test_several_in_step_are_those_alone():
    made = operator()
    seeds = [(seed,) for seed in range(3)]
    steps = list(lanczos_quadratures(made.matmat, made.space, 7, seeds))
    assert [len(found[0].nodes) for found in steps] == [1, 2, 3, 4, 5, 6, 7]
    for seed, found in enumerate(steps[-1]):
        alone = quadrature(made, 7, seed)
        assert np.allclose(found.nodes, alone.nodes) and np.allclose(found.weights, alone.weights)


def test_moments_up_to_twice_the_steps():
    made = operator()
    space = made.space
    found = quadrature(made, 6, 3)
    start = space.normal(3, 1)
    vector = start = start / start.norm()
    for power in range(12):
        assert found.weights @ found.nodes**power == pytest.approx(float(start @ vector), rel=1e-10, abs=1e-12)
        vector = made.matrix @ vector


def test_all_steps_give_the_eigenvalues():
    made = operator(12)
    found = quadrature(made, 30, 0)
    assert np.allclose(found.nodes, torch.linalg.eigvalsh(made.matrix), atol=1e-10)
    assert found.weights.sum() == pytest.approx(1.0)


def test_locked_vectors_are_left_out():
    made = operator(12)
    values, vectors = torch.linalg.eigh(made.matrix)
    deflated = vectors[:, -3:].T.contiguous()
    found = quadrature(made, 30, 0, deflated)
    assert np.allclose(found.nodes, values[:-3], atol=1e-10)


def test_smoothing_and_distribution():
    found = Quadrature(np.array([-1.0, 2.0]), np.array([0.25, 0.75]))
    grid = np.linspace(-5, 6, 4001)
    curve = smoothed(found, grid, 0.1)
    assert integral(curve, grid) == pytest.approx(1.0)
    assert integral(curve * grid, grid) == pytest.approx(1.25)
    low, middle, high = cumulative(found, np.array([-2.0, -1.0, 0.0, 2.0, 3.0])).tolist()
    assert middle == [0.0, 0.125, 0.25, 0.625, 1.0]
    assert low == [0.0, 0.0, 0.0, 0.25, 0.25] and high == [0.25, 0.25, 1.0, 1.0, 1.0]
    exact = Quadrature(found.nodes, found.weights, is_exact=True)
    assert np.array_equal(*cumulative(exact, np.array([0.0, 3.0]))[::2])


def test_the_bounds_hold():
    """The measure that a vector sees, known from the dense eigenvectors."""
    made = operator(60)
    values, vectors = torch.linalg.eigh(made.matrix)
    points = np.linspace(-3, 3, 301)
    for seed in range(20):
        start = made.space.normal(seed, 1)
        masses = ((vectors.T @ start) ** 2 / (start @ start)).numpy()
        found = quadrature(made, 9, seed)
        true = (values.numpy() < points[:, None]) @ masses
        low, _, high = cumulative(found, points)
        assert (low - 1e-10 <= true).all() and (true <= high + 1e-10).all()
