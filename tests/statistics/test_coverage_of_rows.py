"""How often the intervals of a diagonal hold where few samples touch an entry: the rows of an embedding."""

import numpy as np
import pytest
import torch
from matrices import SIZE, outer
from torch.func import functional_call, hessian

from curvtool import MatrixOperator, diagonal
from curvtool.estimators.accuracy.entries import share_below_zero, stderr_of_mean
from curvtool.linalg.intervals import student_t_quantile

NUM, ROWS, DIM, CLASSES, GROUP = 150, 50, 4, 3, 32


def embedding_problem():
    """The Hessians of groups of samples, shape (T, P, P), and how many samples touch each entry; a linear layer's
    entries, which come last, are touched by all."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Embedding(ROWS, DIM), torch.nn.Linear(DIM, CLASSES)).double()
        x, y = torch.randint(0, ROWS, (NUM,)), torch.randint(0, CLASSES, (NUM,))
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    sizes = [p.numel() for p in parameters.values()]
    flat = torch.cat([p.reshape(-1) for p in parameters.values()])

    def loss(vector, x, y):
        parts = vector.split(sizes)
        named = {name: part.view_as(p) for part, (name, p) in zip(parts, parameters.items(), strict=True)}
        return torch.nn.functional.cross_entropy(functional_call(model, named, (x,)), y, reduction="sum") / NUM

    terms = torch.stack([hessian(loss)(flat, *each) for each in zip(x.split(GROUP), y.split(GROUP), strict=True)])
    touched = torch.full((len(flat),), NUM)
    touched[: ROWS * DIM] = torch.bincount(x, minlength=ROWS).repeat_interleave(DIM)
    return terms, touched


def coverage(num_seeds, **arguments):
    """Of the 95 % intervals: of all entries that are touched, and of those touched once, twice, and more often."""
    terms, touched = embedding_problem()
    true = terms.sum(0).diagonal()
    held = torch.zeros(len(true), dtype=torch.float64)
    for seed in range(num_seeds):
        found = diagonal(MatrixOperator(terms), method="hutchinson", seed=seed, **arguments)
        half = student_t_quantile(0.975, found.entry_degrees) * found.stderr
        held += ((found.diagonal - true).abs() <= half) / num_seeds
    of = {"all": touched > 0, "once": touched == 1, "twice": touched == 2, "seldom": (touched > 2) & (touched < 10)}
    return {name: float(held[rows].mean()) for name, rows in of.items()}


@pytest.mark.parametrize("times", [2.0, 10.0])
def test_few_rows_that_vary_more_than_all_others(times):
    """As those of the last layer of a large network: 8 of 400, whose other entries are larger by this factor."""
    small, large, seeds = 392, 8, 40
    terms = torch.randn(4, small + large, small + large, generator=torch.Generator().manual_seed(0)).double()
    terms[:, :small] *= times**-0.5
    terms[:, :, :small] *= times**-0.5
    terms[:, :small, small:] = terms[:, small:, :small] = 0.0  # of two blocks; entries of one and of 1 / times
    terms[:, small:, small:] *= (small / large) ** 0.5  # rows of one length, but for the factor
    terms = terms + terms.mT
    true, held = terms.sum(0).diagonal(), torch.zeros(small + large, dtype=torch.float64)
    for seed in range(seeds):
        found = diagonal(MatrixOperator(terms), method="hutchinson", max_passes=8, rtol=1e-3, seed=seed)
        half = student_t_quantile(0.975, found.entry_degrees) * found.stderr
        held += ((found.diagonal - true).abs() <= half).double() / seeds
    assert held[small:].mean() >= 0.95 - 3 * (0.95 * 0.05 / (large * seeds)) ** 0.5
    assert 0.93 <= held.mean() <= 0.99


def test_rows_that_few_samples_touch_at_a_glance():
    assert all(held >= 0.9 for held in coverage(20, rtol=0.5).values())


@pytest.mark.slow
@pytest.mark.parametrize("rtol", [0.1, 0.5])
def test_rows_that_few_samples_touch(rtol):
    """By their Student's t: with the pilot's eight passes one entry in fourteen lies beyond two standard errors."""
    held = coverage(300, rtol=rtol)
    assert np.min(list(held.values())) >= 0.93 and np.max(list(held.values())) <= 0.99, held


def test_the_share_below_zero_is_no_count_of_noise():
    """No entry is below zero; the estimates put some there. Its interval holds, also where every entry is, and those of
    the parameters' means."""
    terms = torch.from_numpy(outer(8))
    true = terms.sum(0).diagonal()
    sizes = [1, 7, SIZE - 8]
    held, noisy = [], []
    for seed in range(150):
        for sign in (1, -1):
            found = diagonal(MatrixOperator(sign * terms), method="hutchinson", max_passes=24, seed=seed)
            low, high = share_below_zero(found.diagonal, found.stderr, found.entry_degrees)
            noisy.append(float((sign * found.diagonal < 0).double().mean()))
            held.append(low == 0.0 if sign > 0 else high == 1.0)
        quantile = student_t_quantile(0.975, found.degrees)
        parts = zip(*(each.split(sizes) for each in (found.diagonal, found.stderr, -true)), strict=True)
        held += [abs(float(d.mean() - t.mean())) <= quantile * stderr_of_mean(e) for d, e, t in parts]
    assert np.mean(noisy) > 0.02
    assert np.mean(held) >= 0.95
    found = diagonal(MatrixOperator(torch.from_numpy(outer(32))), method="hutchinson", rtol=0.02, max_passes=60)
    assert share_below_zero(found.diagonal, found.stderr, found.entry_degrees)[1] < 0.2  # and it tells something
