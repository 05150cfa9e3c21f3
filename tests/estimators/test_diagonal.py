"""The diagonal against the dense matrix; the standard error of every entry against its spread."""

import math

import numpy as np
import pytest
import torch
from cases import CASES
from oracles import OneByOne, dense_hessian
from test_trace import digits_terms

from curvtool import CurvtoolError, EmpiricalFisher, GaussNewton, Hessian, Interrupted, MatrixOperator, diagonal
from curvtool.linalg.intervals import student_t_quantile


@pytest.fixture(scope="module")
def terms():
    return digits_terms()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_case(case):
    true = dense_hessian(case).diagonal()
    operator = Hessian(case.problem(), batch_size=3, group_size=4)
    found = diagonal(operator, method="hutchinson", rtol=0.05, max_passes=300)
    assert bool(((found.diagonal - true).abs() <= 6 * found.stderr + 1e-8 * true.abs().max()).all())
    exact = diagonal(operator, method="exact")
    assert torch.allclose(exact.diagonal, true, rtol=1e-8, atol=1e-10) and exact.sum_stderr == 0.0


@pytest.mark.parametrize("matrix", [GaussNewton, EmpiricalFisher])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_rows_of_every_sample(case, matrix):
    """The exact diagonal of a Gauss-Newton matrix, with and without the rows' own way, against its products."""
    try:
        operator = matrix(case.problem(), batch_size=3)
    except CurvtoolError:
        pytest.skip("the case has no such matrix")
    true = operator.materialize().diagonal()
    begin = operator.num_products
    found = operator.exact_diagonal()
    assert torch.allclose(found, true, rtol=1e-8, atol=1e-10 * float(true.abs().max()))
    assert operator.num_products - begin == operator.diagonal_cost <= operator.space.dim


def test_the_rows_are_cheaper():
    costs = {case.name: GaussNewton(case.problem(), batch_size=3).diagonal_cost for case in CASES}
    dims = {case.name: Hessian(case.problem(), batch_size=3).space.dim for case in CASES}
    assert sum(costs[name] < dims[name] / 3 for name in costs) >= len(costs) - 3, costs


def test_unbiased_and_errors_are_true(terms):
    """Over 300 seeds: no entry is biased, and the told standard errors are the estimates' own."""
    operator = MatrixOperator(terms)
    true = operator.matrix.diagonal()
    runs = [diagonal(operator, method="hutchinson", rtol=1e-3, max_passes=6, seed=seed) for seed in range(300)]
    errors = torch.stack([run.diagonal - true for run in runs])
    spread, told = errors.std(0), torch.stack([run.stderr for run in runs]).square().mean(0).sqrt()
    counted = spread > 1e-12
    assert bool((errors.mean(0)[counted].abs() <= 4.5 * spread[counted] / math.sqrt(300)).all())
    ratio = (told / spread)[counted]
    # rows of far less spread than the others, as of a pixel that is hardly ever lit, are given more than theirs
    assert 0.9 <= float(ratio.median()) <= 1.1 and bool((ratio > 0.7).all()) and float(ratio.max()) < 4
    inside = (errors.abs() <= 2.57 * torch.stack([run.stderr for run in runs]))[:, counted]  # t with 5 degrees: 95 %
    assert 0.93 <= float(inside.double().mean()) <= 0.99
    sums = np.array([run.sum - float(true.sum()) for run in runs])
    assert abs(sums.mean()) <= 4 * sums.std() / math.sqrt(300)


def test_the_relative_error_is_true(terms):
    operator = MatrixOperator(terms)
    true = operator.matrix.diagonal()
    runs = [diagonal(operator, method="hutchinson", rtol=0.1, seed=seed) for seed in range(50)]
    actual = math.sqrt(np.mean([float((r.diagonal - true).norm() / true.norm()) ** 2 for r in runs]))
    assert all(r.converged and r.relative_error <= 0.1 for r in runs) and 0.06 <= actual <= 0.115


def test_auto_takes_the_exact_way_where_it_is_cheaper(terms):
    result = diagonal(MatrixOperator(terms), rtol=0.001)
    assert result.method == "exact" and "145 give it exactly" in result.reason
    assert diagonal(MatrixOperator(terms), rtol=0.2).method == "hutchinson"


def test_a_diagonal_matrix_and_a_zero():
    values = torch.arange(1.0, 6.0, dtype=torch.float64)
    result = diagonal(MatrixOperator(torch.diag(values)), method="hutchinson")
    assert torch.equal(result.diagonal, values) and result.relative_error == pytest.approx(0.0, abs=1e-14)
    assert result.num_passes == 16 and result.converged  # so many alike are no chance
    zero = diagonal(MatrixOperator(torch.zeros(5, 5, dtype=torch.float64)), method="hutchinson")
    assert zero.relative_error is None and zero.sum == 0.0


def test_passes_that_fall_alike_are_no_certainty():
    """One neighbour a row: four passes are alike in an eighth of the rows, which had an error of exactly 0."""
    matrix = 5 * torch.eye(1000, dtype=torch.float64)
    index = torch.arange(0, 1000, 2)
    matrix[index, index + 1] = matrix[index + 1, index] = torch.tensor([0.9, -0.9], dtype=torch.float64).repeat(250)
    held = []
    for seed in range(5):
        found = diagonal(MatrixOperator(matrix), method="hutchinson", seed=seed)
        errors = (found.diagonal - 5).abs()
        assert float(found.stderr.min()) > 0.1 and float((errors / found.stderr).max()) < 4
        inside = errors <= student_t_quantile(0.975, found.entry_degrees) * found.stderr
        held.append(float(inside.double().mean()))
        assert 0.8 <= float(errors.norm() / (5 * math.sqrt(1000))) / found.relative_error <= 1.2
    # 7 or 8 of 8 signs are alike in 7 % of the rows: no normal interval holds more than 93 % of such entries
    assert 0.92 <= np.mean(held) <= 0.99


def test_a_dominating_pair_of_entries_is_not_missed():
    """One group of two signs beside dense ones: its passes fall alike now and then."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(16, 40, generator=generator, dtype=torch.float64)
    terms = rows[:, :, None] * rows[:, None, :] / 40
    terms[3] = 0.0
    terms[3, :2, :2] = 500.0
    true = terms.sum(0).diagonal()
    runs = [diagonal(MatrixOperator(terms), method="hutchinson", max_passes=16, seed=seed) for seed in range(200)]
    ratios = [float((run.diagonal - true).norm() / true.norm()) / run.relative_error for run in runs]
    assert (
        all(run.num_passes == 16 for run in runs) and np.percentile(ratios, 95) < 2.5 and np.percentile(ratios, 99) < 5
    )
    sums = [abs(r.sum - float(true.sum())) <= student_t_quantile(0.975, r.degrees) * r.sum_stderr for r in runs]
    assert sum(sums) >= 0.85 * 200  # of 16 signs, 12 or more are alike in one run of thirteen


def test_a_stop_keeps_the_passes(terms):
    operator = OneByOne(terms)

    def failing():
        if operator.num_products > 6.5:
            raise KeyboardInterrupt

    operator.before = failing
    with pytest.raises(Interrupted) as caught:
        diagonal(operator, method="hutchinson", rtol=1e-3)
    assert caught.value.partial.num_passes == 6 and not caught.value.partial.converged


@pytest.mark.parametrize("arguments", [{"method": "no"}, {"rtol": 0}, {"max_passes": 1}])
def test_senseless_arguments_are_refused(terms, arguments):
    with pytest.raises(CurvtoolError, match="CT001"):
        diagonal(MatrixOperator(terms), **arguments)
