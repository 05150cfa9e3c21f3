"""Float64's own rounding is seen, and counted: against values that no cancellation touches."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from curvtool import (
    GaussNewton,
    Hessian,
    InputJacobian,
    Problem,
    density,
    diagonal,
    eigenvalues,
    jacobian_norms,
    trace,
)
from curvtool.operators.preflight import preflight_curvature, preflight_jacobian
from curvtool.operators.random_rounding import RandomRounding

EPS = torch.finfo(torch.float64).eps


def test_results_move_by_a_unit_of_rounding():
    x = torch.linspace(1, 2, 1000, dtype=torch.float64)
    with RandomRounding():
        moved = x * 3
    apart = ((moved - x * 3) / (x * 3) / EPS).abs()
    assert float(apart.min()) > 0.4 and float(apart.max()) < 2.1
    with RandomRounding(1):
        assert not torch.equal(x * 3, moved)
    with RandomRounding(), RandomRounding(1):  # one within another moves once more each
        assert not torch.equal(x * 3, x * 3)


@pytest.mark.parametrize(
    "exact",
    [
        lambda x: x.reshape(10, 100).T,
        lambda x: x[::3],
        torch.relu,
        lambda x: torch.cat([x, -x]),
        lambda x: x.clone(),
        lambda x: x.amax(),
        lambda x: torch.where(x > 1.5, x, torch.zeros_like(x)),
        lambda x: (x * 1024 > 0).long(),
        lambda x: x.clone().neg_(),
        lambda x: torch.empty(0, dtype=torch.float64) * 2,
    ],
)
def test_what_rounds_nothing_stays(exact):
    x = torch.linspace(1, 2, 1000, dtype=torch.float64)
    with RandomRounding():
        found = exact(x)
    assert torch.equal(found, exact(x))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_double_backward_and_forward_mode_move(layout):
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    weight = torch.randn(4, 3, 3, 3, dtype=torch.float64).requires_grad_()

    def second():
        total = torch.sigmoid(torch.conv2d(x, weight)).square().mean()
        (gradient,) = torch.autograd.grad(total, weight, create_graph=True)
        return torch.autograd.grad(gradient.sum(), x)[0]

    def tangent():
        return torch.func.jvp(lambda w: torch.sigmoid(torch.conv2d(x, w)), (weight,), (weight,))[1]

    for run in (second, tangent):
        plain = run().detach()
        with RandomRounding():
            moved = run().detach()
        assert 0 < float((moved - plain).norm() / plain.norm()) < 1e-13


def saturated(margin, loss, dtype=torch.float64):
    """A logistic model of two samples, and its largest eigenvalue by a formula that does not cancel."""
    two = loss == "cross-entropy"
    model = nn.Linear(1, 2 if two else 1, bias=False).to(dtype)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.25], [0.25 + margin]] if two else [[margin]]))
    x = torch.tensor([[1.0], [1.125]], dtype=dtype)
    targets = torch.tensor([1, 1]) if two else torch.ones(2, 1, dtype=dtype)
    weights = model.weight.detach().double()
    slope = float(weights[1] - weights[0]) if two else float(weights[0])
    small = [math.exp(-slope * each) for each in (1.0, 1.125)]
    true = sum(each**2 * t / (1 + t) ** 2 / 2 for each, t in zip((1.0, 1.125), small, strict=True))
    return Problem(model, (x, targets), loss), (2 if two else 1) * true


@pytest.mark.parametrize("loss", ["cross-entropy", "bce-with-logits"])
@pytest.mark.parametrize("margin", [3.0, 10.0, 15.0, 20.0, 25.0, 28.0, 30.0, 33.0, 35.0, 37.0, 40.0, 60.0, 300.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_saturated_logistic_models(margin, loss, dtype):
    for kind in (Hessian, GaussNewton):
        problem, true = saturated(margin, loss, dtype)
        pair = eigenvalues(kind(problem), 1).eigenvalues[0]
        assert abs(pair.value - true) <= pair.error_bound * (1 + 1e-9)
        for low, high in (
            trace(kind(problem), method="exact").ci95,
            trace(kind(problem), method="hutchinson", max_passes=8).ci95,
            density(kind(problem), method="exact").trace_ci95,
        ):
            assert low - 1e-9 * true <= true <= high + 1e-9 * true
        found = diagonal(kind(problem), method="exact")
        entry = true / found.diagonal.numel()
        assert float(((found.diagonal - entry).abs() - found.stderr).max()) <= 1e-9 * entry


def test_the_preflight_says_how_far_float64_can_be_trusted():
    usual, lost = (preflight_curvature(saturated(margin, "bce-with-logits")[0], Hessian, 0) for margin in (1.0, 33.0))
    assert 0 < usual.noise_floor < 1e-13
    assert lost.noise_floor > 1e-3


class Softmax(nn.Module):
    def __init__(self, seed, scale, num_outputs):
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(scale * torch.randn(num_outputs, 8, generator=g, dtype=torch.float64) / 8**0.5)

    def forward(self, x):
        return F.softmax(x @ self.weight.T, dim=1)

    def norms(self, x):
        """||J||_F from differences of the logits' weights, p_i p_k (w_i - w_k), which do not cancel."""
        weight = self.weight.detach()
        logits = x @ weight.T
        shares = (logits[:, None, :] - logits[:, :, None]).exp().sum(2).reciprocal()  # no 1 - p
        rows = torch.einsum("ni,nk,ikj->nij", shares, shares, weight[:, None] - weight[None])
        return rows.flatten(1).norm(dim=1).numpy()


@pytest.mark.parametrize("scale", [1.0, 15.0, 90.0, 250.0])
def test_norms_of_saturated_probabilities(scale):
    outside, floors = 0, []
    for seed in range(20):
        model = Softmax(seed, scale, 20)
        x = torch.randn(4, 8, generator=torch.Generator().manual_seed(100 + seed), dtype=torch.float64)
        found = jacobian_norms(InputJacobian(Problem(model, (x, None), None)))
        low, high = found.frobenius_interval
        true = model.norms(x)
        slack = 1e-11 * true  # of the formula
        outside += int(((true < low - slack) | (true > high + slack)).sum())
        floors.append(found.noise)
    assert outside == 0
    assert np.median(floors) < (1e-10 if scale < 100 else math.inf)


def test_the_noise_floor_of_norms_in_float64():
    model = Softmax(0, 90.0, 20)
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(100), dtype=torch.float64)
    assert 0 < preflight_jacobian(Problem(model, (x, None), None)).noise_floor < 1


@pytest.mark.parametrize("same", [True, False])
def test_the_deviation_of_spectral_norms_counts_what_the_iteration_left(same):
    inside = 0
    for seed in range(10):
        g = torch.Generator().manual_seed(seed)
        model = nn.Sequential(nn.Linear(150, 160), nn.Identity() if same else nn.Tanh(), nn.Linear(160, 150)).double()
        with torch.no_grad():
            for each in model.parameters():
                each.copy_(torch.randn(each.shape, generator=g, dtype=torch.float64) / 12)
        x = 0.3 * torch.randn(24, 150, generator=g, dtype=torch.float64)
        jacobian = InputJacobian(Problem(model, (x, None), None))
        true = torch.linalg.matrix_norm(jacobian.materialize(), ord=2).numpy().std()
        found = jacobian_norms(jacobian, norm="spectral", max_exact_outputs=10, max_recomputed=0, seed=seed)
        low, high = found.summary("spectral").bounds["std"]
        inside += low <= true <= high
        assert high - low < 0.02 * found.summary("spectral").values["mean"]
    assert inside == 10
