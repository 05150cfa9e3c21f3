"""What random starts exclude, against dense eigenvalues."""

import math

import numpy as np
import pytest

from curvtool.linalg.certificate import largest_with_mass, least_mass, upper_bounds


@pytest.mark.parametrize("dim", [1, 2, 3, 10, 1000])
def test_a_random_vector_holds_less_of_a_direction_as_rarely_as_is_said(dim):
    rng, failure = np.random.default_rng(dim), 0.05
    vectors = rng.standard_normal((20000, min(dim, 10)))
    lengths = (vectors**2).sum(1) + (rng.chisquare(dim - 10, 20000) if dim > 10 else 0)
    share = np.mean(vectors[:, 0] ** 2 / lengths < least_mass(dim, failure))
    assert share <= failure + 4 * math.sqrt(failure / 20000)
    if dim > 1:
        assert share >= 0.5 * failure  # and it is not much smaller than need be


def recurrence(values, start, steps):
    basis, diagonal, beside = [start / np.linalg.norm(start)], [], []
    for _ in range(steps):
        image = values * basis[-1]
        diagonal.append(basis[-1] @ image)
        for _ in range(2):
            for each in basis:
                image = image - (each @ image) * each
        beside.append(np.linalg.norm(image))
        basis.append(image / beside[-1])
    return np.array(diagonal), np.array(beside)


@pytest.mark.parametrize("steps", [1, 3, 8, 20])
def test_no_eigenvalue_lies_above_except_with_the_probability(steps):
    """Of matrices with one sign and with both, whatever their ends; and never above the bound known beforehand."""
    rng, failure, dim, wrong = np.random.default_rng(steps), 0.1, 120, 0
    mass = least_mass(dim, failure)
    for trial in range(300):
        values = rng.standard_normal(dim) if trial % 2 else np.arange(1, dim + 1.0) ** -1.5
        limit = largest_with_mass(*recurrence(values, rng.standard_normal(dim), steps), mass)
        wrong += values.max() > limit
        need = math.log(1.648 * math.sqrt(dim) / failure) / (2 * steps - 1)
        if trial % 2 == 0 and need < 1:
            assert limit <= values.max() / (1 - need**2) * (1 + 1e-6)
    assert wrong <= failure * 300 + 3 * math.sqrt(failure * 300)


def test_an_invariant_space_excludes_all_beyond_it():
    assert largest_with_mass(np.array([2.0]), np.array([0.0]), 1e-9) == pytest.approx(2.0)


def test_bounds_hold_for_every_split_of_a_matrix():
    rng = np.random.default_rng(0)
    for trial in range(50):
        size, inner = 20, 1 + trial % 7
        matrix = rng.standard_normal((size, size))
        matrix = (matrix + matrix.T) / 2
        values, turn = np.linalg.eigh(matrix[:inner, :inner])
        coupling = (matrix[inner:, :inner] * 10.0 ** -(trial % 5)) @ turn
        whole = np.block([[np.diag(values), coupling.T], [coupling, matrix[inner:, inner:]]])
        true = np.linalg.eigvalsh(whole)[::-1]
        rest = np.linalg.eigvalsh(matrix[inner:, inner:])[-1]
        bounds = list(upper_bounds(values, coupling.T @ coupling, rest))
        assert len(bounds) == inner + 1
        assert (true[: inner + 1] <= np.array(bounds) + 1e-10).all()
        if trial % 5 == 4:
            assert bounds[0] <= max(true[0], rest) + 1e-3
