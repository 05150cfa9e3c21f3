"""In float32 no stated error is below the true one: Python's functions, without a preflight before."""

import math

import numpy as np
import pytest
import torch
from float32_calls import Comparison
from networks import extremes, network

from curvtool import GaussNewton, Hessian, MatrixOperator, Problem, density, diagonal, eigenvalues, trace
from curvtool.operators.preflight import preflight_curvature

EXTREMES = extremes()
MOST_USUALLY = 1000  # times the true error: what the usual stated one is below


def compared(seed):
    comparison = Comparison(seed, *network(seed))
    comparison.by_turns()
    return comparison


def test_errors_hold_on_a_few_small_networks():
    assert not [failure for seed in (31, 33, 146, 170) for failure in compared(seed).failures()]


@pytest.mark.slow
@pytest.mark.parametrize("start", range(0, 1000, 100))
def test_errors_hold_on_a_thousand_networks(start):
    comparisons = [compared(seed) for seed in range(start, start + 100)]
    assert not [failure for each in comparisons for failure in each.failures()]
    ratios = [
        stated / error
        for each in comparisons
        for call, error, stated in each.found
        if call == "eigenvalues" and error > 0
    ]
    assert np.median(ratios) < MOST_USUALLY


def holds(name, seed):
    comparison = Comparison(seed, *EXTREMES[name])
    comparison.all()
    return not comparison.failures()


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", ["a single input of zero", "bce-with-logits saturated 1000-fold, one sample"])
def test_errors_hold_on_zeros(name, seed):
    assert holds(name, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", EXTREMES)
def test_errors_hold_at_the_extremes(name, seed):
    assert holds(name, seed)


def test_a_matrix_whose_products_vanish_has_the_error_that_float64_shows():
    model = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.1e-6)  # a logit of 110: its loss has a second derivative of 1.7e-48, below float32
    x = torch.tensor([[1e8]])
    operator = GaussNewton(Problem(model, (x, torch.ones(1, 1)), "bce-with-logits"))
    logit = float(model.weight.double().item() * 1e8)
    true = 1e16 * math.exp(-logit)
    pair = eigenvalues(operator, 1).eigenvalues[0]
    assert pair.value == 0.0 and true <= pair.error_bound <= 100 * true
    for result in (trace(operator, method="exact"), trace(operator, method="hutchinson", max_passes=8)):
        assert result.ci95[0] <= true <= result.ci95[1] <= 100 * true
    assert true <= float(diagonal(operator, method="exact").stderr) <= 100 * true
    assert density(operator).trace_ci95[1] >= true


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_that_lose_half_of_the_second_derivative_have_a_noise(dtype):
    """A loss of 4e-18: the right class's probability is 1 in float64 too, and float32 agrees with it."""
    x, model = torch.tensor([[1.0]], dtype=dtype), torch.nn.Linear(1, 2, bias=False, dtype=dtype)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[40.0], [0.0]]))
    operator = Hessian(Problem(model, (x, torch.tensor([0])), "cross-entropy"))
    small = math.exp(-40.0)
    true = small * torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    products = torch.stack([operator.matvec(e) for e in torch.eye(2, dtype=dtype)])
    off = float(torch.linalg.matrix_norm(products - true, 2)) / small
    assert off > 0.1 and operator.noise > off / 3
    pair = eigenvalues(operator, 1, method="power", rtol=1e-2, max_passes=100).eigenvalues[0]
    assert abs(pair.value - 2 * small) <= pair.error_bound


@pytest.mark.parametrize("exponent", [0, -70])
def test_squares_of_small_entries_are_not_lost(exponent):
    terms = torch.randn(4, 12, 12, generator=torch.Generator().manual_seed(0))
    terms = terms + terms.mT
    operator, scaled = MatrixOperator(terms), MatrixOperator(terms * 2.0**exponent)
    one, other = (trace(each, method="hutchinson", max_passes=8) for each in (operator, scaled))
    assert one.stderr > 0 and other.stderr * 2.0**-exponent == pytest.approx(one.stderr, rel=1e-4)
    one, other = (diagonal(each, method="hutchinson", max_passes=8) for each in (operator, scaled))
    torch.testing.assert_close(other.stderr * 2.0**-exponent, one.stderr, rtol=1e-4, atol=0.0)
    assert other.sum_stderr * 2.0**-exponent == pytest.approx(one.sum_stderr, rel=1e-4)


def test_the_trace_of_a_density_carries_the_rounding_of_its_outliers():
    values = torch.full((40,), 1e-3)
    values[0], values[1] = 1e6, -1e6
    operator, vectors = MatrixOperator(torch.diag(values)), torch.eye(40)[:2]
    result = density(operator, method="probes", num_steps=5, outliers=(1e6, -1e6), outlier_vectors=vectors)
    low, high = result.trace_ci95
    assert (high - low) / 2 >= torch.finfo(torch.float32).eps * 1e6 * math.sqrt(38)


def gradients(model, x, y, loss):
    """The norm in float32, in float64, and what the preflight says of the first."""
    problem = Problem(model, (x, y), loss)
    norms = [
        float(each.space.norm(each.loss_and_gradient()[1]))
        for each in (Hessian(problem), Hessian(problem.restricted(range(len(x)), torch.float64)))
    ]
    return *norms, preflight_curvature(problem).gradient_error


def test_the_norm_of_a_gradient_that_cancels_has_the_error_that_float64_shows():
    """At a minimum that is sharp: a sum of terms a thousand times as large as it."""
    generator = torch.Generator().manual_seed(1)
    x = 100 * torch.randn(2000, 4, generator=generator)
    y = x @ torch.randn(4, 1, generator=generator) + torch.randn(2000, 1, generator=generator)
    model = torch.nn.Linear(4, 1)
    solved = torch.linalg.lstsq(torch.cat([x, torch.ones(2000, 1)], 1).double(), y.double()).solution[:, 0].float()
    with torch.no_grad():
        model.weight.copy_(solved[:4])
        model.bias.copy_(solved[4:])
    found, true, error = gradients(model, x, y, "mse")
    assert abs(found - true) > 1e-5 * true  # far above the noise of a product, which is that of a sum of squares
    assert abs(found - true) <= error


@pytest.mark.parametrize("start", [0, pytest.param(20, marks=pytest.mark.slow)])
def test_the_error_of_a_gradients_norm_holds(start):
    for seed in range(start, 10 * start or 20):
        found, true, error = gradients(*network(seed))
        slack = 1e-20  # losses of 1e-23, whose gradient another way to run the loss rounds to zero
        assert abs(found - true) <= error + torch.finfo(torch.float32).eps * true + slack, seed
