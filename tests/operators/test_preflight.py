"""The preflight finds what drops curvature, and measures the noise of the arithmetic."""

import pytest
import torch
from cases import CASES, conv_batchnorm
from oracles import relative
from torch import nn

from curvtool import CurvtoolError, Hessian, Problem
from curvtool.operators.calibration import agree
from curvtool.operators.differences import find_step
from curvtool.operators.preflight import preflight_curvature, preflight_jacobian


@pytest.mark.parametrize("case", CASES, ids=str)
def test_passes_on_every_case(case):
    checks = preflight_curvature(case.problem(torch.float32))
    assert checks.symmetry < 1e-5
    assert 0 < checks.noise_floor < 1e-4
    if checks.finite_difference is not None:
        assert checks.finite_difference < 1e-3
    exact = preflight_curvature(case.problem(torch.float64))
    assert 0 < exact.noise_floor < 1e-13  # float64 rounds too
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


class Padded(nn.Module):
    """Reads tokens among which is the padding, whose row torch gives no gradient."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(7, 4, padding_idx=0)
        self.embed.weight.data[0] = 0.5
        self.head = nn.Linear(4, 3)

    def forward(self, ids):
        return self.head(torch.tanh(self.embed(ids)).mean(1))


def test_rows_for_padding_are_constants_and_no_reason_to_refuse():
    g = torch.Generator().manual_seed(0)
    data = (torch.randint(0, 7, (20, 5), generator=g), torch.randint(0, 3, (20,), generator=g))
    problem = Problem(Padded().double(), data)
    assert any("padding" in repair for repair in problem.repairs)
    assert preflight_curvature(problem).finite_difference < 1e-6
    dense = Hessian(problem).materialize()
    by_differences = Hessian(problem, mode="finite-difference").materialize()
    assert relative(by_differences, dense) < 1e-6
    assert not bool(dense[:4].any()) and bool(dense[4:8].any())


class CastsDown(nn.Module):
    """As language models compute norms and softmaxes in float32, whatever their own precision."""

    def __init__(self, how):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.head, self.how = nn.Linear(6, 8), nn.Linear(8, 3), how

    def forward(self, x):
        x = self.layer(x)
        dtype = x.dtype
        if self.how == "to":
            x = x.to(torch.float32)
        elif self.how == "float":
            x = x.float()
        elif self.how == "type_as":
            x = x.type_as(torch.zeros(1))
        elif self.how == "softmax":
            return self.head(torch.softmax(x, -1, dtype=torch.float32).to(dtype))
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.head(x.to(dtype))


@pytest.mark.parametrize("how", ["to", "float", "type_as", "softmax"])
def test_float64_stays_float64(how):
    g = torch.Generator().manual_seed(0)
    data = (torch.randn(20, 6, generator=g, dtype=torch.float64), torch.randint(0, 3, (20,), generator=g))
    model = CastsDown(how).double()
    plain = CastsDown("softmax" if how == "softmax" else "none").double()
    problem = Problem(model, data)
    found = Hessian(problem).materialize()
    if how == "softmax":
        plain.forward = lambda x: plain.head(torch.softmax(plain.layer(x), -1))
    assert relative(found, Hessian(Problem(plain, data)).materialize()) < 1e-13
    assert any("casts" in repair for repair in problem.repairs)
    single = preflight_curvature(Problem(model, data, dtype=torch.float32))
    assert single.finite_difference < 1e-6 and 1e-9 < single.noise_floor < 1e-5
    assert not any("casts" in repair for repair in Problem(nn.Linear(6, 3).double(), data).repairs)


class Fixed(nn.Module):
    """A program that is fixed to float32; `wrong`: with an operation that drops curvature."""

    def __init__(self, wrong):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.head, self.wrong = nn.Linear(6, 8), nn.Linear(8, 3), wrong

    def forward(self, x):
        if x.dtype != torch.float32:
            raise RuntimeError("expected scalar type Float")
        x = self.layer(x)
        return self.head(DropsCurvature.apply(x) if self.wrong else torch.tanh(x))


@pytest.mark.parametrize("wrong", [False, True])
def test_a_program_that_is_fixed_to_float32_is_checked_in_float32(wrong):
    g = torch.Generator().manual_seed(0)
    data = (torch.randn(20, 6, generator=g), torch.randint(0, 3, (20,), generator=g))
    problem = Problem(Fixed(wrong), data)
    if wrong:
        with pytest.raises(CurvtoolError, match="CT053"):
            preflight_curvature(problem)
        return
    checks = preflight_curvature(problem)
    assert checks.symmetry < 1e-5 and checks.finite_difference < 0.05
    assert 1e-9 < checks.noise_floor < 1e-5 and "Float" in checks.without_float64


class NormAtZero(nn.Module):
    """A norm whose argument is zero: its gradient is there, its second derivative is NaN."""

    def __init__(self, only=None):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 3).double()
        self.only = only

    def forward(self, x):
        shift = self.layer(x) - self.layer(x).detach()
        size = torch.linalg.norm(shift if self.only is None else torch.where(x[:, :1] > self.only, shift, x), dim=-1)
        return torch.stack([size**2, self.layer(x)[:, 0]], 1)


@pytest.mark.parametrize("only", [None, 1.0])
def test_a_nan_is_never_agreement(only):
    g = torch.Generator().manual_seed(0)
    data = (torch.randn(40, 3, generator=g, dtype=torch.float64), torch.randint(0, 2, (40,), generator=g))
    with pytest.raises(CurvtoolError, match="finite-difference") as caught:
        preflight_curvature(Problem(NormAtZero(only), data))
    assert caught.value.code == "CT054"


def test_a_loss_that_is_not_finite_is_left_to_its_own_check():
    checks = preflight_curvature(Problem(nn.Linear(2, 2), (torch.full((9, 2), 1e30), torch.zeros(9, 2)), "mse"))
    assert checks.noise_floor is None and "not finite" in checks.unavailable["noise_floor"]


def test_products_agree_with_no_nan():
    finite, nan = [torch.ones(3)], [torch.full((3,), torch.nan)]
    assert agree(finite, finite) and agree(nan, nan)
    assert not agree(nan, finite) and not agree(finite, nan)


def test_a_step_is_not_chosen_by_a_product_that_is_not_a_number():
    """One of the two vectors gives NaN at the longer steps alone."""

    def gradient(parameters):
        moved = (parameters[0].detach() - 1.0).abs().max()
        return [parameters[0].detach() ** 3 * (torch.nan if moved > 2e-3 and parameters[0][0] > 1 else 1.0)]

    step = find_step(gradient, [torch.ones(3, dtype=torch.float64)])
    assert step.length < 2e-2 and step.error < 1e-3


def test_derivatives_are_checked_on_samples_of_all_the_data():
    """An operation that drops curvature takes part for the last samples alone, which are most of them."""

    class Late(Silent):
        def forward(self, x):
            image = self.layer(x[:, :2])
            return torch.where(x[:, 2:] > 0, DropsCurvature.apply(image), image)

    torch.manual_seed(0)
    x = torch.randn(100, 3)
    x[:, 2] = (torch.arange(100) >= 40).float()
    with pytest.raises(CurvtoolError, match="CT053"):
        preflight_curvature(Problem(Late(), (x, torch.randint(0, 2, (100,)))))
