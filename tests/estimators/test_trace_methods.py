"""Known spaces, XTrace, the exact diagonal, blocks, and the choice between them."""

import math

import numpy as np
import pytest
import torch
from cases import CASES
from oracles import OneByOne, dense_hessian
from test_trace import digits_terms, exact_deviation

from curvtool import CurvtoolError, Hessian, Interrupted, MatrixOperator, trace
from curvtool.estimators.known_space import known_space
from curvtool.estimators.observer import SILENT
from curvtool.estimators.trace_by_probes import Blocks


@pytest.fixture(scope="module")
def terms():
    return digits_terms()


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("method", ["auto", "deflated", "hutch++", "xtrace", "exact"])
def test_every_case(case, method):
    true = dense_hessian(case)
    operator = Hessian(case.problem(), batch_size=3, group_size=4)
    result = trace(
        operator, method=method, rtol=0.2, max_passes=400, rank=5 if method in {"deflated", "hutch++"} else None
    )
    size = float(torch.linalg.eigvalsh(true).abs().sum())
    assert abs(result.value - float(true.trace())) <= 5 * result.stderr + 1e-8 * size


@pytest.mark.parametrize("method", ["deflated", "hutch++"])
def test_the_known_part_is_exact(terms, method):
    operator = MatrixOperator(terms)
    known = known_space(operator, method, 12, 0, SILENT)
    basis = known.basis
    assert torch.allclose(basis @ basis.T, torch.eye(12, dtype=basis.dtype), atol=1e-12)
    assert known.trace == pytest.approx(float((basis @ operator.matrix @ basis.T).trace()), rel=1e-10)


@pytest.mark.parametrize("method", ["deflated", "hutch++"])
def test_a_known_space_of_a_matrix_of_low_rank(method):
    vector = torch.arange(1.0, 21.0, dtype=torch.float64)
    operator = MatrixOperator(torch.outer(vector, vector))
    known = known_space(operator, method, 6, 0, SILENT)
    assert known.trace == pytest.approx(float(vector @ vector), rel=1e-10)


@pytest.mark.parametrize("method,rtol", [("deflated", 0.01), ("hutch++", 0.02), ("auto", 0.05)])
def test_interval_covers_and_is_not_wide(terms, method, rtol):
    """300 runs, each stopping itself; the width against the spread that the estimates have."""
    operator = MatrixOperator(terms)
    true = float(operator.matrix.trace())
    results = [trace(operator, method=method, rtol=rtol, seed=seed) for seed in range(300)]
    results = [r for r in results if r.method != "exact"]
    covered = sum(r.ci95[0] <= true <= r.ci95[1] for r in results) / len(results)
    errors = np.array([r.value - true for r in results])
    assert len(results) > 200 and all(r.converged for r in results)
    assert 0.93 <= covered <= 0.99
    assert abs(errors.mean()) <= 4 * errors.std() / math.sqrt(len(results))  # unbiased
    widths = [(r.ci95[1] - r.ci95[0]) / 2 / 1.96 for r in results]
    assert np.mean(widths) <= 1.5 * errors.std()


def test_xtrace_covers(terms):
    whole = MatrixOperator(torch.stack(terms).sum(0))
    true = float(whole.matrix.trace())
    results = [trace(whole, method="xtrace", rtol=0.1, seed=seed) for seed in range(300)]
    assert 0.93 <= np.mean([r.ci95[0] <= true <= r.ci95[1] for r in results]) < 1.0
    # unbiased where it does not stop itself (a low estimate goes with a small spread)
    errors = np.array([trace(whole, method="xtrace", max_passes=16, seed=seed).value - true for seed in range(300)])
    assert abs(errors.mean()) <= 4 * errors.std() / math.sqrt(300)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("rank", [1, 3, 7, 20])
def test_xtrace_of_a_matrix_of_low_rank(rank, dtype):
    """More probes than the rank: each probe's range is the whole one, and the trace is exact."""
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        factor = torch.randn(rank, 120, generator=generator, dtype=torch.float64).to(dtype)
        operator = MatrixOperator(factor.T @ factor)
        result = trace(operator, method="xtrace", rtol=0.01, seed=seed)
        assert result.converged
        if result.num_passes > rank:
            assert result.value == pytest.approx(
                float(operator.matrix.trace()), rel=1e-9 if dtype.itemsize == 8 else 1e-3
            )
        else:
            low, high = result.ci95
            assert low <= float(operator.matrix.trace()) <= high


def test_xtrace_is_exact_with_as_many_probes_as_dimensions():
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(12, 12, generator=generator, dtype=torch.float64)
    matrix = matrix + matrix.T
    result = trace(MatrixOperator(matrix), method="xtrace", rtol=1e-12, max_passes=24)
    assert result.value == pytest.approx(float(matrix.trace()), rel=1e-9)


def test_auto_makes_fewer_products(terms):
    operator = MatrixOperator(terms)
    plain = [trace(operator, method="hutchinson", rtol=0.02, seed=seed).cost.num_hvps for seed in range(20)]
    chosen = [trace(operator, rtol=0.02, seed=seed) for seed in range(20)]
    assert {r.method for r in chosen} <= {"deflated", "exact"} and all("predict" in r.reason for r in chosen)
    assert np.median([r.cost.num_hvps for r in chosen]) < 0.5 * np.median(plain)


def test_auto_takes_the_diagonal_of_a_small_matrix():
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(30, 30, generator=generator, dtype=torch.float64)
    matrix = matrix + matrix.T  # its trace is small beside its entries
    result = trace(MatrixOperator(matrix), rtol=0.01)
    assert result.method == "exact" and result.stderr == 0.0 and "30 give the whole" in result.reason
    assert result.value == pytest.approx(float(matrix.trace()), rel=1e-12)


@pytest.mark.parametrize("method", ["auto", "hutchinson", "exact"])
def test_blocks_against_the_dense_matrix(terms, method):
    operator = MatrixOperator(terms)
    blocks = Blocks([80, 5, 50, 10], {"first": [0, 1], "second": [2, 3], "bias": [3]})
    result = trace(operator, method=method, rtol=0.02, blocks=blocks)
    diagonal = operator.matrix.diagonal()
    for name, (start, stop) in {"first": (0, 85), "second": (85, 145), "bias": (135, 145)}.items():
        found, true = result.blocks[name], float(diagonal[start:stop].sum())
        assert abs(found.value - true) <= 4.5 * found.stderr + 1e-10
        assert (found.stderr == 0) == (result.method == "exact")
    assert result.blocks["first"].value + result.blocks["second"].value == pytest.approx(result.value, rel=1e-10)


def test_standard_errors_of_blocks(terms):
    """Over 300 seeds the blocks' estimates spread as their standard errors say."""
    operator = MatrixOperator(terms)
    blocks = Blocks([80, 65], {"first": [0], "second": [1]})
    runs = [trace(operator, method="hutchinson", rtol=0.5, max_passes=3, seed=s, blocks=blocks) for s in range(300)]
    for name, true in (
        ("first", operator.matrix.diagonal()[:80].sum()),
        ("second", operator.matrix.diagonal()[80:].sum()),
    ):
        errors = np.array([r.blocks[name].value - float(true) for r in runs])
        told = math.sqrt(np.mean([r.blocks[name].stderr ** 2 for r in runs]))
        assert 0.85 <= errors.std() / told <= 1.15
        assert abs(errors.mean()) <= 4 * errors.std() / math.sqrt(300)


def test_products_are_limited(terms):
    for method in ("auto", "deflated", "hutch++", "xtrace"):
        result = trace(MatrixOperator(terms), method=method, rtol=1e-6, max_passes=60)
        assert not result.converged and result.cost.num_hvps <= 61


@pytest.mark.parametrize(("method", "products"), [("auto", 2.5), ("hutchinson", 40), ("deflated", 23.5)])
def test_a_stop_at_any_time_keeps_an_interval(terms, method, products):
    operator = OneByOne(terms)
    whole = operator.matvec_in_parts

    def failing(*arguments):
        if operator.num_products > products:
            raise KeyboardInterrupt
        return whole(*arguments) if arguments else None

    operator.before, operator.matvec_in_parts = failing, failing
    with pytest.raises(Interrupted) as caught:
        trace(operator, method=method, rtol=0.005)
    partial = caught.value.partial
    assert abs(partial.value - float(operator.matrix.trace())) <= 6 * partial.stderr
    assert partial.ci95[0] < partial.value < partial.ci95[1] and not partial.converged


def test_a_pass_is_as_precise_as_foretold(terms):
    """The dense matrices tell the variance of a pass in the complement of a known space."""
    operator = MatrixOperator(terms)
    known = known_space(operator, "deflated", 20, 0, SILENT)
    projector = torch.eye(145, dtype=torch.float64) - known.basis.T @ known.basis
    foretold = exact_deviation([projector @ term @ projector for term in terms])
    runs = [trace(operator, method="deflated", rank=20, rtol=0.5, max_passes=23, seed=s) for s in range(40)]
    told = np.sqrt(np.mean([r.stderr**2 * r.num_passes for r in runs]))
    assert 0.7 <= told / foretold <= 1.3


@pytest.mark.parametrize("method", ["deflated", "hutch++"])
@pytest.mark.parametrize("max_passes", [5, 12, 30])
def test_the_space_counts_among_the_passes(terms, method, max_passes):
    result = trace(MatrixOperator(terms), method=method, rtol=1e-6, max_passes=max_passes)
    assert result.ci95 is not None
    assert result.cost.num_hvps <= max_passes


@pytest.mark.parametrize(
    "arguments",
    [
        {"method": "no"},
        {"rank": 5},
        {"method": "deflated", "rank": 0},
        {"method": "xtrace", "blocks": Blocks([145], {"all": [0]})},
        {"method": "exact", "max_passes": 100},
        {"method": "hutch++", "max_passes": 2},
        {"method": "deflated", "rank": 20, "max_passes": 21},
    ],
)
def test_senseless_arguments_are_refused(terms, arguments):
    with pytest.raises(CurvtoolError, match="CT001"):
        trace(MatrixOperator(terms), **arguments)


@pytest.mark.parametrize("method", ["auto", "deflated", "hutch++", "xtrace", "exact", "hutchinson"])
@pytest.mark.parametrize("dim", [1, 2, 3, 5])
def test_tiny_matrices(method, dim):
    matrix = torch.arange(1.0, dim * dim + 1, dtype=torch.float64).reshape(dim, dim)
    operator = MatrixOperator(matrix + matrix.T)
    result = trace(operator, method=method, rtol=0.3)
    true = float(operator.matrix.trace())
    assert result.ci95[0] - 1e-9 <= true <= result.ci95[1] + 1e-9
