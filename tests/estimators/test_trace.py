"""The trace: unbiased, and an interval that covers though the run stops itself."""

import functools
import math

import numpy as np
import pytest
import torch
from cases import CASES
from oracles import OneByOne, dense_hessian

from curvtool import CurvtoolError, Hessian, Interrupted, MatrixOperator, Problem, diagonal, trace


@functools.cache
def digits_terms(group=64, hidden=5):
    """The Hessians of groups of handwritten digits under a small trained network, float64, their sum the whole."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = torch.from_numpy(digits.data / 16).reshape(-1, 8, 8)[:, ::2, ::2].reshape(-1, 16)
    y = torch.from_numpy(digits.target)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(16, hidden), torch.nn.Tanh(), torch.nn.Linear(hidden, 10)).double()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    terms = []
    for start in range(0, len(x), group):
        rows = slice(start, start + group)
        share = len(x[rows]) / len(x)
        terms.append(Hessian(Problem(model, (x[rows], y[rows]))).materialize() * share)
    return terms


@pytest.fixture(scope="module")
def terms():
    return digits_terms()


def exact_deviation(terms):
    """Standard deviation of one pass: sum over terms of 2 (||A||_F^2 - sum A_ii^2)."""
    return math.sqrt(sum(2 * float(t.square().sum() - t.diagonal().square().sum()) for t in terms))


@pytest.mark.parametrize("rtol", [0.05, pytest.param(0.02, marks=pytest.mark.slow)])
def test_interval_covers_and_is_not_wide(terms, rtol):
    """300 runs, each stopping itself: 93 to 99 % cover, and half-widths are at most 1.5 times the exact ones."""
    operator = MatrixOperator(terms)
    true, deviation = float(operator.matrix.trace()), exact_deviation(terms)
    covered, widths, errors = 0, [], []
    for seed in range(300):
        result = trace(operator, rtol=rtol, seed=seed, method="hutchinson")
        low, high = result.ci95
        covered += low <= true <= high
        widths.append((high - low) / 2 / (1.96 * deviation / math.sqrt(result.num_passes)))
        errors.append(result.value - true)
        assert result.converged and (high - low) / 2 <= rtol * abs(result.value)
    assert 0.93 <= covered / 300 <= 0.99
    assert np.mean(widths) <= 1.5 and np.percentile(widths, 95) <= 1.5
    assert abs(np.mean(errors)) <= 4 * np.std(errors) / math.sqrt(300)  # unbiased


@pytest.mark.parametrize("num_terms", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_interval_covers_with_few_groups(terms, num_terms):
    """One group, or three: the degrees of freedom come from the passes instead."""
    size = -(-len(terms) // num_terms)
    merged = [torch.stack(terms[i : i + size]).sum(0) for i in range(0, len(terms), size)]
    operator = MatrixOperator(merged)
    true = float(operator.matrix.trace())
    results = [trace(operator, rtol=0.1, seed=seed, method="hutchinson") for seed in range(300)]
    covered = sum(r.ci95[0] <= true <= r.ci95[1] for r in results) / 300
    assert 0.92 <= covered <= 0.997
    deviation = exact_deviation(merged)
    widths = [(r.ci95[1] - r.ci95[0]) / 2 / (1.96 * deviation / math.sqrt(r.num_passes)) for r in results]
    assert np.mean(widths) <= 1.5


def test_far_fewer_passes_than_a_shared_probe(terms):
    """A probe a group of samples: the variance of a pass falls manifold against a probe shared by all data."""
    whole = torch.stack(terms).sum(0)
    assert exact_deviation([whole]) / exact_deviation(terms) > 4


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_case(case):
    true = float(dense_hessian(case).trace())
    operator = Hessian(case.problem(), batch_size=3, group_size=4)
    result = trace(operator, method="hutchinson", rtol=0.2, max_passes=400)
    assert abs(result.value - true) <= 5 * result.stderr + 1e-9 * abs(true)
    assert result.num_terms == operator.terms.number


def test_groups_are_fixed_by_the_data_not_by_the_batch():
    values = [
        trace(Hessian(CASES[0].problem(), batch_size=size, group_size=4), max_passes=10).value for size in (1, 3, 4, 10)
    ]
    assert np.allclose(values, values[0], rtol=1e-10)


def test_no_spread_is_no_error():
    result = trace(MatrixOperator(torch.diag(torch.arange(10.0, dtype=torch.float64))))
    assert result.value == 45.0 and result.converged and result.stderr == 0.0 and math.isinf(result.degrees)
    assert result.ci95 == pytest.approx((45.0, 45.0), rel=1e-12) and result.ci95[0] < 45.0 < result.ci95[1]  # rounding


def of_few_signs(num_terms, scale, places):
    """Dense groups, and one of a single outer product of so few equal entries, that dominates."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(num_terms, 40, generator=generator, dtype=torch.float64)
    terms = rows[:, :, None] * rows[:, None, :] / 40
    terms[3] = 0.0
    terms[3, :places, :places] = scale / places
    return terms


@pytest.mark.parametrize("places", [2, 3, 5])
def test_a_dominating_group_of_few_signs_is_covered(places):
    """Its forms take few values, and a few passes fall alike now and then."""
    terms = of_few_signs(16, 1000.0, places)
    true = float(terms.sum(0).trace())
    runs = [trace(MatrixOperator(terms), method="hutchinson", rtol=0.3, max_passes=16, seed=s) for s in range(200)]
    misses = [abs(r.value - true) / max(r.ci95[1] - r.value, 1e-300) for r in runs]
    assert sum(m <= 1 for m in misses) >= 0.93 * 200 and max(misses) < 5
    few = [trace(MatrixOperator(terms), method="hutchinson", rtol=0.3, max_passes=6, seed=s) for s in range(100)]
    assert not any(r.converged for r in few)
    # six products with two signs are all zero in one run of sixty-four, and nothing shows the group then
    assert sum(r.ci95[0] <= true <= r.ci95[1] for r in few) >= 89
    fewer = [trace(MatrixOperator(terms), method="hutchinson", rtol=0.3, max_passes=4, seed=s) for s in range(20)]
    assert not any(r.converged or (r.ci95 and not r.ci95[0] <= true <= r.ci95[1] and r.value) for r in fewer)


def test_a_trace_that_cancels_has_an_interval_of_the_matrix_scale():
    """Zero is not exact to the last digit where the matrix is not zero; and no method says that it is."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(24, 24, generator=generator, dtype=torch.float64)
    matrix = matrix + matrix.T
    matrix -= torch.eye(24, dtype=torch.float64) * matrix.trace() / 24
    for dtype, method in [(d, m) for d in (torch.float64, torch.float32) for m in ("exact", "xtrace", "hutchinson")]:
        result = trace(MatrixOperator(matrix.to(dtype)), method=method, rtol=0.05, max_passes=200)
        assert result.ci95[0] <= 0.0 <= result.ci95[1] and result.scale > 1.0
        assert result.arithmetic >= torch.finfo(dtype).eps * result.scale
    zeros = MatrixOperator(torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64))
    found = trace(zeros, method="exact")
    assert found.value == 0.0 and found.ci95[1] > 0.0 and found.scale > 0.0
    assert trace(MatrixOperator(torch.zeros(6, 6, dtype=torch.float64))).scale == 0.0


def test_no_spread_by_chance_is_not_taken_for_no_error():
    """One pair off the diagonal: three passes are alike in a quarter of all runs."""
    terms = [torch.eye(6, dtype=torch.float64) for _ in range(40)]
    terms[7][0, 1] = terms[7][1, 0] = 3.0
    results = [trace(MatrixOperator(terms), rtol=0.2, seed=seed) for seed in range(200)]
    assert all(r.stderr > 0 for r in results)
    assert sum(r.ci95[0] <= 240 <= r.ci95[1] for r in results) >= 0.95 * 200


def test_wider_than_asked_for_says_so(terms):
    result = trace(MatrixOperator(terms), rtol=1e-4, max_passes=6)
    assert not result.converged and result.num_passes == 6
    assert result.ci95[0] < float(torch.stack(terms).sum(0).trace()) < result.ci95[1]


def test_seed_decides_everything(terms):
    operator = MatrixOperator(terms)
    assert trace(operator, seed=3).value == trace(operator, seed=3).value
    assert trace(operator, seed=3).value != trace(operator, seed=4).value


def test_nothing_computed_is_lost(terms):
    operator = OneByOne(terms)
    calls = []

    def failing():
        calls.append(1)
        if len(calls) > 4.5 * operator.terms.number:
            raise KeyboardInterrupt

    operator.before = failing
    with pytest.raises(Interrupted) as caught:
        trace(operator, rtol=1e-3, method="hutchinson")
    assert caught.value.partial.num_passes == 4
    assert caught.value.partial.ci95[0] < float(operator.matrix.trace()) < caught.value.partial.ci95[1]


@pytest.mark.parametrize("arguments", [{"rtol": 0}, {"rtol": 2.0}, {"max_passes": 1}])
def test_senseless_arguments_are_refused(terms, arguments):
    with pytest.raises(CurvtoolError, match="CT001"):
        trace(MatrixOperator(terms), **arguments)


@pytest.mark.parametrize("coupling", [1.0, 0.9, -0.9])
@pytest.mark.parametrize("max_passes", [2, 3, 4])
def test_too_few_passes_of_few_signs_have_no_error(max_passes, coupling):
    """Of z1 z2, which is one sign: two passes that are alike say nothing; six do."""
    operator = MatrixOperator(torch.tensor([[1.0, coupling], [coupling, 1.0]], dtype=torch.float64))
    told, entries = [], []
    for seed in range(60):
        found = trace(operator, method="hutchinson", rtol=1e-3, max_passes=max_passes, seed=seed)
        told.append(found.ci95)
        entries.append(diagonal(operator, method="hutchinson", rtol=1e-3, max_passes=max_passes, seed=seed).stderr)
        assert not found.converged
    assert all(each is None or each[0] - 1e-9 <= 2 <= each[1] + 1e-9 for each in told)
    assert all(each is None for each in entries)
    six = [trace(operator, method="hutchinson", rtol=1e-3, max_passes=6, seed=seed).ci95 for seed in range(60)]
    assert sum(low - 1e-9 <= 2 <= high + 1e-9 for low, high in six) >= 54
