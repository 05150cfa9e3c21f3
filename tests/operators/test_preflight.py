"""The preflight finds what drops curvature, and measures the noise of the arithmetic."""

import pytest
import torch
from cases import CASES, conv_batchnorm
from torch import nn

from curvtool import CurvtoolError, Problem
from curvtool.operators.preflight import preflight_curvature, preflight_jacobian


@pytest.mark.parametrize("case", CASES, ids=str)
def test_passes_on_every_case(case):
    checks = preflight_curvature(case.problem(torch.float32))
    assert checks.symmetry < 1e-5
    assert 0 < checks.noise_floor < 1e-4
    if checks.finite_difference is not None:
        assert checks.finite_difference < 1e-3
    exact = preflight_curvature(case.problem(torch.float64))
    assert exact.noise_floor == 0.0
    assert exact.symmetry < 1e-12


class DropsCurvature(torch.autograd.Function):
    """The square, whose backward hides that it depends on its input."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 2 * x.detach() * g


class Silent(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x):
        return DropsCurvature.apply(self.layer(x))


class LosesAll(torch.autograd.Function):
    """The square, whose backward leaves no graph at all."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        with torch.no_grad():
            return 2 * x * g


class Zero(Silent):
    def forward(self, x):
        return LosesAll.apply(self.layer(x))


@pytest.mark.parametrize("model", [Silent, Zero])
def test_dropped_curvature_is_found(model):
    """Also where every product is zero."""
    torch.manual_seed(0)
    problem = Problem(model(), (torch.randn(8, 2), torch.randint(0, 2, (8,))))
    with pytest.raises(CurvtoolError) as caught:
        preflight_curvature(problem)
    assert caught.value.code == "CT053" and caught.value.exit_status == 5


def test_parameters_are_as_before():
    problem = CASES[0].problem(torch.float64)
    before = {name: p.detach().clone() for name, p in problem.parameters.items()}
    preflight_curvature(problem)
    assert all(torch.equal(p, before[name]) for name, p in problem.parameters.items())


def test_kinks_are_crossed_by_large_steps_only():
    """On a ReLU network the difference still agrees with the product, at a step small enough."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    checks = preflight_curvature(Problem(model, (torch.randn(32, 10), torch.randint(0, 4, (32,)))))
    assert checks.finite_difference is not None and checks.finite_difference < 1e-3


def test_noise_of_jacobian_norms():
    model, x, _ = conv_batchnorm(torch.float32)
    assert 0 < preflight_jacobian(Problem(model, x, None)).noise_floor < 1e-5
    model, x, _ = conv_batchnorm(torch.bfloat16)
    assert preflight_jacobian(Problem(model, x, None, dtype=torch.bfloat16)).noise_floor > 1e-4
