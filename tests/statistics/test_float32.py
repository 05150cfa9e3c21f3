"""In float32 no stated error of an eigenvalue is below the true one: Python's functions, without a preflight before."""

import pytest
import torch
from networks import network

from curvtool import GaussNewton, Hessian, Problem, eigenvalues
from curvtool.estimators.accuracy.noise import NOISE_OF_PAIRS, noise_of

SMALLEST = torch.finfo(torch.float32).tiny  # a matrix below it is zero


def errors_over_stated(seed):
    """Of each eigenvalue: the distance to the nearest true one over the stated error."""
    model, x, y, loss = network(seed)
    problem = Problem(model, (x, y), loss)
    kind = GaussNewton if seed % 2 else Hessian
    operator = kind(problem)
    exact = kind(problem.restricted(range(len(x)), torch.float64), mode="kept", form="torch").materialize()
    true = torch.linalg.eigvalsh((exact + exact.T) / 2)
    result = eigenvalues(operator, min(3, len(true)), which="sa" if seed % 5 == 4 else "la")
    least = max(NOISE_OF_PAIRS * noise_of(operator) * result.scale, SMALLEST)
    return [float((true - pair.value).abs().min()) / max(pair.error_bound, least) for pair in result.eigenvalues]


def check(seeds):
    worst = {seed: max(errors_over_stated(seed)) for seed in seeds}
    assert not {seed: ratio for seed, ratio in worst.items() if not ratio <= 1.0}


def test_errors_hold_on_a_few_networks():
    check(range(12))


@pytest.mark.slow
@pytest.mark.parametrize("start", range(0, 1000, 100))
def test_errors_hold_on_a_thousand_networks(start):
    check(range(start, start + 100))
