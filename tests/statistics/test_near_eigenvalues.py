"""Eigenvalues that lie on or beside each other: whether the stated error holds for the rank, and copies are found."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_missed_eigenvalues import wishart

from curvtool import MatrixOperator, eigenvalues


def bulk(edge):
    return np.random.default_rng(3).random(200) * edge


def neighbours():
    """Leading values of one rank or two that lie within a tolerance of each other, or several tolerances apart."""
    return {
        "a pair, 2e-5 apart, far from the bulk": np.r_[bulk(0.1), 0.599958, 0.599948],
        "a pair, 2e-5 apart, near the bulk": np.r_[bulk(0.5), 0.599958, 0.599948],
        "three, 2e-4 apart": np.r_[bulk(0.3), 0.6, 0.6001, 0.6002, 0.59],
        "pairs, 1e-4 apart": np.r_[bulk(1.0), np.repeat(np.arange(1, 11) * 1.0, 2) + np.tile([0, 1e-4], 10)],
        "no outliers": bulk(1.0),
    }


def copies():
    """Multiple eigenvalues, with a gap below them and without one."""
    matrix = wishart(100, np.random.default_rng(4), 2)
    return {
        "twice, gap 1": np.r_[bulk(0.3), 0.6, 0.6, 0.59],
        "three times, gap 1": np.r_[bulk(0.3), 0.6, 0.6, 0.6, 0.59],
        "twice, gap 0.2": np.r_[bulk(0.5), 0.6, 0.6, 0.59],
        "three times, gap 0.2": np.r_[bulk(0.5), 0.6, 0.6, 0.6, 0.59],
        "twice, as a network's": np.r_[np.abs(bulk(1.0)) * 1e-3, 1, 1, 0.9, 0.5, 0.5, 0.3, 0.2, 0.1],
        "twice, no gap": np.r_[bulk(0.59), 0.6, 0.6, 0.595],
        "twice, the edge of a Wishart matrix": np.r_[matrix, matrix.max()],
    }


def distances(values, k, rtol, seed):
    """Of one run: the worst distance to the value of that rank, and to any value, over the error; products."""
    true = np.sort(values)[::-1]
    operator = MatrixOperator(torch.diag(torch.as_tensor(values.copy())))
    found = eigenvalues(operator, k, rtol=rtol, seed=seed, independent_start=True)
    pairs = [(pair, rank) for pair, rank in zip(found.eigenvalues, true, strict=False) if pair.converged]
    of_rank = max((abs(pair.value - rank) / pair.error_bound for pair, rank in pairs), default=0.0)
    of_any = max((np.abs(pair.value - true).min() / pair.error_bound for pair, _ in pairs), default=0.0)
    return of_rank, of_any, found.cost.num_hvps


def shares(values, k, rtol, seeds):
    """Shares of the runs with every converged value within its error of its rank, and of any value; mean products."""
    of_rank, of_any, products = np.array([distances(values, k, rtol, seed) for seed in range(seeds)]).T
    return (of_rank <= 1).mean(), (of_any <= 1).mean(), products.mean()


@pytest.mark.slow
@pytest.mark.parametrize("rtol", [0.2, 0.05, 1e-2, 1e-3])
@pytest.mark.parametrize("name", neighbours())
def test_the_stated_error_holds_for_the_rank(name, rtol):
    """Nine runs in ten: one start may hide a neighbour of each of three values by more than was supposed."""
    for k in (1, 3):
        of_rank, of_any, _ = shares(neighbours()[name], k, rtol, 100)
        assert of_rank >= 0.9 and of_any == 1.0, (name, k, rtol, of_rank, of_any)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in copies() if "no gap" not in name and "Wishart" not in name])
def test_copies_with_a_gap_below_them_are_found(name):
    for k in (1, 2, 3):
        of_rank, of_any, _ = shares(copies()[name], k, 1e-3, 100)
        assert of_rank >= 0.9 and of_any == 1.0, (name, k, of_rank, of_any)


def test_a_few_runs_of_each():
    for values in (neighbours()["a pair, 2e-5 apart, far from the bulk"], copies()["twice, gap 1"]):
        of_rank, of_any, _ = shares(values, 2, 1e-3, 20)
        assert of_rank >= 0.85 and of_any == 1.0
