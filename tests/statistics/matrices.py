"""Sums of symmetric matrices on which intervals are tried: what holds on dense forms may fail on sparse ones."""

import numpy as np
import torch

SIZE = 64


def outer(num_terms, seed=0, scales=None):
    """Dense matrices of rank one."""
    rows = np.random.default_rng(seed).normal(size=(num_terms, SIZE))
    scales = np.ones(num_terms) if scales is None else scales
    return np.einsum("t,ti,tj->tij", scales, rows, rows) / SIZE


def sparse_outer(num_terms, places, seed=0, scales=None):
    """Matrices of rank one with so many entries of equal size: their forms take few values."""
    rng = np.random.default_rng(seed)
    scales, found = np.ones(num_terms) if scales is None else scales, np.zeros((num_terms, SIZE, SIZE))
    for term in range(num_terms):
        row = np.zeros(SIZE)
        row[rng.choice(SIZE, places, replace=False)] = rng.choice([-1, 1], places)
        found[term] = scales[term] * np.outer(row, row) / places
    return found


def with_one(terms, one, scale):
    """In the place of one of them another that dominates."""
    found = terms.copy()
    found[3] = scale * one
    return found


def one_hot(num_terms, seed=0, num=32):
    """Of regressions on two categories a sample: pairs of entries."""
    rng, found = np.random.default_rng(seed), np.zeros((num_terms, SIZE, SIZE))
    for term in range(num_terms):
        for _ in range(num):
            pair = np.array([rng.integers(SIZE // 2), SIZE // 2 + rng.integers(SIZE // 2)])
            found[term][np.ix_(pair, pair)] += np.exp(rng.normal()) / num
    return found


def two_sided(num_terms, seed=0):
    """Independent normal entries."""
    entries = np.random.default_rng(seed).normal(size=(num_terms, SIZE, SIZE))
    return (entries + entries.transpose(0, 2, 1)) / np.sqrt(8 * SIZE)


def of_eigenvalues(values, seed=0):
    """In a random basis."""
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(SIZE, SIZE)))[0]
    return ((basis * values) @ basis.T)[None]


def neighbours():
    """Equal entries on the diagonal and one beside each."""
    found, index = 5 * np.eye(SIZE), np.arange(0, SIZE, 2)
    found[index, index + 1] = found[index + 1, index] = 0.9 * (-1.0) ** (index // 2)
    return found[None]


def families():
    """The matrices by name, shape (T, P, P)."""
    dense, unit = outer(32), np.eye(SIZE)
    wild = np.exp(2.5 * np.random.default_rng(1).normal(size=32))
    corner = np.zeros((SIZE, SIZE))
    corner[:3, :3] = 1
    free = two_sided(32)
    free = free - np.einsum("tii->t", free)[:, None, None] * unit / SIZE
    big = one_hot(32)
    big[3] += 200 * sparse_outer(1, 2, 7)[0]
    found = {
        "power law, 1 group": of_eigenvalues(1 / np.arange(1, SIZE + 1)),
        "no outliers, 1 group": two_sided(1) + 2 * unit,
        "two-sided, 1 group": two_sided(1) + 0.3 * unit,
        "multiplicities, 1 group": of_eigenvalues(np.repeat([5.0, 1.0, 0.1, 0.0], SIZE // 4)),
        "rank one, 1 group": outer(1),
        "rank one of 2 entries, 1 group": sparse_outer(1, 2),
        "rank one of 5 entries, 1 group": sparse_outer(1, 5),
        "neighbours, 1 group": neighbours(),
        "rank one, 32 groups": dense,
        "rank four, 56 groups": np.sum([outer(56, seed) for seed in range(4)], axis=0),
        "rank one, 200 groups": outer(200),
        "scales apart, 32 groups": outer(32, 0, wild),
        "scales apart, 2 entries": sparse_outer(32, 2, 0, wild),
        "scales apart, 3 entries": sparse_outer(32, 3, 0, wild),
        "one dominates": with_one(dense, outer(1, 9)[0], 1000),
        "one of 2 entries dominates": with_one(dense, sparse_outer(1, 2)[0], 1000),
        "one of 3 entries dominates": with_one(dense, sparse_outer(1, 3)[0], 1000),
        "one of 5 entries dominates": with_one(dense, sparse_outer(1, 5)[0], 1000),
        "one of 2 entries, 30 times": with_one(dense, sparse_outer(1, 2)[0], 30),
        "a block of three dominates": with_one(dense, corner, 1000),
        "one alone of 2 entries": with_one(np.zeros_like(dense), sparse_outer(1, 2)[0], 1),
        "one-hot, 32 groups": one_hot(32),
        "one-hot, one dominates": big,
        "zero trace, 32 groups": free,
    }
    return {name: torch.from_numpy(np.ascontiguousarray(each)) for name, each in found.items()}


BLOCKS_OF_FEW = {"one": 1, "pair": 2, "small pair": 2, "five": 5, "rest": 54}


def blocks_of_few(num_terms, alone):
    """Blocks of few entries, uncoupled, beside a dense one of rank one a term: `BLOCKS_OF_FEW` has their sizes.

    Args:
        num_terms: T.
        alone: whether a single term has all of a small block, as the samples of a rare class or token do.
    """
    rng, found = np.random.default_rng(3), np.zeros((num_terms, SIZE, SIZE))
    pair = np.array([[1.0, 0.9], [0.9, 1.0]])
    for term in range(num_terms):
        share = float(term == 0) if alone else 1.0
        row = rng.normal(size=54)
        found[term, :1, :1], found[term, 1:3, 1:3], found[term, 3:5, 3:5] = share, share * pair, 1e-3 * share * pair
        found[term, 5:10, 5:10], found[term, 10:, 10:] = share * np.ones((5, 5)), np.outer(row, row)
    return torch.from_numpy(found)


def coupled_blocks(num_terms):
    """Of rank one a term, its blocks' sizes those of `BLOCKS_OF_FEW`."""
    rows = np.random.default_rng(5).normal(size=(num_terms, SIZE)) * np.repeat([1, 3, 1e-3, 1, 1], [1, 2, 2, 5, 54])
    return torch.from_numpy(np.einsum("ti,tj->tij", rows, rows))
