"""The noise of products: measured over all the data, and a product in float64 over all of them."""

import math

import numpy as np
import pytest
import torch
from cases import CASES
from oracles import relative
from torch import nn

from curvtool import (
    BlockOperator,
    DeflatedOperator,
    EmpiricalFisher,
    Fisher,
    GaussNewton,
    Hessian,
    InputJacobian,
    MatrixOperator,
    Problem,
    ScaledOperator,
    SumOperator,
    jacobian_norms,
)
from curvtool.operators import noise
from curvtool.operators.preflight import preflight_curvature
from curvtool.problem.cuts import spread
from curvtool.problem.kinks import _Watch

WORTH = 20  # products after which one in float64 is worth its cost


def test_a_spread_has_one_sample_of_each_stretch():
    for num, wanted in ((10, 3), (400, 32), (1_000_003, 7)):
        rows = spread(num, wanted)
        edges = [i * num // wanted for i in range(wanted + 1)]
        assert all(low <= row < high for row, low, high in zip(rows, edges, edges[1:], strict=False))
        assert rows == spread(num, wanted) and len(rows) == wanted
    assert spread(5, 9) == range(5) and spread(1, 1) == range(1)


class Offset(nn.Module):
    """max(theta_1 x + b - b, 0) theta_2: for a large b float32 loses the argument, and with it the curvature."""

    def __init__(self):
        super().__init__()
        self.first = nn.Parameter(torch.tensor([0.5]))
        self.second = nn.Parameter(torch.tensor([0.7]))

    def forward(self, x):
        return self.second * torch.relu((self.first * x[:, :1] + x[:, 1:]) - x[:, 1:])


def kinked(rows, num=400):
    x = torch.rand(num, 2, generator=torch.Generator().manual_seed(0)) + 0.5
    x[:, 1] = 0.0
    x[rows, 1] = 1e9
    return Problem(Offset(), (x, torch.zeros(num, 1)), "mse")


def true_noise(problem, kind=Hessian):
    """Over all data, for the worst of a few vectors."""
    operator = kind(problem)
    exact = kind(problem.restricted(range(problem.num_samples), torch.float64)).materialize()
    vectors = torch.randn(6, operator.space.dim, generator=torch.Generator().manual_seed(5))
    return max(relative(operator.matvec(v).double(), exact @ v.double()) for v in vectors)


@pytest.mark.parametrize("rows", [[300], list(range(40, 400, 20)), [399, 398]])
def test_kinks_that_only_later_rows_cross(rows):
    problem = kinked(rows)
    wanted = true_noise(problem)
    assert wanted > 1e-4
    assert wanted / 3 <= Hessian(problem).noise <= 30 * wanted
    assert preflight_curvature(problem).noise_floor >= wanted / 3


def test_where_samples_are_dear_they_are_drawn_over_all_the_data(monkeypatch):
    monkeypatch.setattr(noise, "num_small", lambda operator: 1)
    assert noise.num_drawn(Hessian, kinked([0])) == 100
    problem = kinked(list(range(40, 400, 20)))
    assert Hessian(problem).noise >= true_noise(problem) / 3


def test_noise_is_measured_once_and_can_be_set(monkeypatch):
    asked = []
    monkeypatch.setattr("curvtool.operators.curvature.measured_noise", lambda *_, **__: asked.append(1) or 0.25)
    operator = Hessian(CASES[0].problem(torch.float32))
    assert operator.noise == operator.noise == 0.25 and len(asked) == 1
    operator.noise = 0.5
    assert operator.noise == 0.5 and len(asked) == 1
    operator.noise = 0.0
    assert operator.noise == operator.space.eps


def test_float64_has_the_noise_of_its_own_rounding():
    operator = Hessian(CASES[0].problem(torch.float64))
    assert operator.space.eps <= operator.noise < 1e-13 and operator.num_products == 0


@pytest.mark.parametrize("kind", [Hessian, GaussNewton, Fisher, EmpiricalFisher])
@pytest.mark.parametrize("batch_size", [None, 3])
def test_the_product_in_float64(kind, batch_size):
    problem = CASES[0].problem(torch.float32)
    operator = kind(problem, batch_size=batch_size)
    exact = kind(problem.restricted(range(problem.num_samples), torch.float64)).materialize()
    vector = operator.space.normal(3, 1)
    assert operator.precise_matvec(vector) is None  # dearer than the run was so far
    operator.num_products = 10 * WORTH  # convolutions are slow in float64
    found = operator.precise_matvec(vector)
    assert found.dtype == torch.float64 and operator.num_products == 10 * WORTH + 1
    assert relative(found, exact @ vector.double()) < 1e-12
    assert all(p.dtype == torch.float32 for p in problem.parameters.values())


def test_no_product_in_float64_where_it_is_of_no_use():
    exact = Hessian(CASES[0].problem(torch.float64), mode="fresh", form="torch")
    exact.num_products = 1000
    assert exact.precise_matvec(exact.space.normal(0, 1)) is None  # they are that already
    differences = Hessian(CASES[0].problem(torch.float32), mode="finite-difference")
    differences.num_products = 1000
    assert differences.precise_matvec(differences.space.normal(0, 1)) is None
    plain = MatrixOperator(torch.eye(3))
    assert plain.precise_matvec(torch.ones(3)) is None
    small = Hessian(CASES[0].problem(torch.float32), memory_budget=4096)
    small.num_products = 1000
    assert small.precise_matvec(small.space.normal(0, 1)) is None


def test_in_float64_another_way_to_run_products_is_compared_with_torchs_own():
    problem = CASES[0].problem(torch.float64)
    operator = Hessian(problem, mode="forward", form="torch")
    operator.num_products = 100
    vector = operator.space.normal(0, 1)
    assert relative(operator.precise_matvec(vector), operator.matvec(vector)) < 1e-10


class Fixed(nn.Linear):
    """Runs in float32 alone."""

    def forward(self, x):
        if x.dtype != torch.float32:
            raise RuntimeError("expected scalar type Float")
        return torch.tanh(super().forward(x))


def test_without_float64_parameters_are_rounded():
    torch.manual_seed(0)
    fixed = Hessian(Problem(Fixed(4, 3), (torch.randn(50, 4), torch.randint(0, 3, (50,)))))
    assert fixed.space.eps <= fixed.noise < 1e-5
    fixed.num_products = 100
    assert fixed.precise_matvec(fixed.space.normal(0, 1)) is None


def test_a_sum_that_cancels_is_as_noisy_as_its_parts():
    torch.manual_seed(0)
    matrix = torch.randn(6, 6)
    one, other = MatrixOperator(matrix + matrix.T), MatrixOperator(matrix + matrix.T)
    one.noise = 1e-5
    assert math.isclose(ScaledOperator(one, -3.0).noise, 1e-5, rel_tol=1e-3)
    assert math.isclose(SumOperator([one, other], [1.0, -0.999]).noise, 1e-2, rel_tol=0.2)
    values, vectors = torch.linalg.eigh(matrix + matrix.T)
    leading = vectors.T[values.abs().argsort(descending=True)[:5]]
    assert DeflatedOperator(one, leading).noise >= 0.9e-5
    assert BlockOperator(one, torch.arange(2)).noise >= 1e-5


def test_a_nan_is_no_small_error():
    assert noise._ratio([(1.0, 1.0), (math.nan, 1.0)]) == math.inf
    assert noise._ratio([(math.nan, 1.0), (1.0, 1.0)]) == math.inf
    assert noise._ratio([(0.0, 0.0)]) == 0.0 and noise._ratio([(1.0, 0.0)]) == math.inf


def beside(x):
    return torch.cat([x, 0.1 * x], 1)


RAMPS = {
    "relu": torch.relu,
    "in place": lambda x: torch.relu_(x.clone()),
    "clamp": lambda x: x.clamp(min=0.0),
    "clamp from above": lambda x: -(-x).clamp(max=0.0),
    "leaky": lambda x: nn.functional.leaky_relu(x, 0.01),
    "where": lambda x: torch.where(x > 0, x, 0.01 * x),
    "maximum": lambda x: torch.maximum(x, 0.1 * x),
    "hardtanh": lambda x: nn.functional.hardtanh(x, 0.0, 1e3),
    "relu6": lambda x: nn.functional.relu6(x),
    "prelu": lambda x: nn.functional.prelu(x, x.new_tensor([0.1])),
    "softshrink": lambda x: nn.functional.softshrink(x + 0.5, 0.5),
    "abs": lambda x: (x.abs() + x) / 2,
    "largest of two": lambda x: torch.max(x, 0.1 * x),
    "largest along": lambda x: torch.stack([x, 0.1 * x], 1).amax(dim=1),
    "largest with its place": lambda x: torch.stack([x, 0.1 * x], 1).max(1).values,
    "comparison": lambda x: x * (x >= 0).to(x),
    "named arguments": lambda x: torch.clamp(input=x, min=0.0),
    "module": nn.ReLU(),
    "pool in one dimension": lambda x: nn.functional.max_pool1d(beside(x)[:, None], kernel_size=2)[:, 0],
    "pool in two": lambda x: nn.functional.max_pool2d(beside(x)[:, None, None], (1, 2)).flatten(1),
    "adaptive pool": lambda x: nn.AdaptiveMaxPool1d(1)(beside(x)[:, None])[:, 0],
}


class Ramp(nn.Module):
    """ramp(theta_1 x + theta_2 y + theta_1 z) theta_3 (1 + theta_1), of three inputs."""

    def __init__(self, ramp):
        super().__init__()
        self.weights = nn.Parameter(torch.tensor([0.7, 0.3, 1.1]))
        self.ramp = ramp

    def forward(self, x):
        first, second, third = self.weights
        inner = first * x[:, :1] + second * x[:, 1:2] + first * x[:, 2:]
        return third * self.ramp(inner) * (1 + first)


def on_a_kink(ramp, num=400, row=233):
    """Samples far from the kink, and one on one side of it in float32 and on the other in float64."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(num, 3, generator=generator)
    x = x.sign() * (1 + x.abs()) * torch.tensor([3.0, 1.0, 1.0])
    model = Ramp(ramp)
    first, second, _ = model.weights.detach()
    tried = torch.randn(20000, 3, generator=generator)
    tried[:, 2] = -(first * tried[:, 0] + second * tried[:, 1]) / first
    inner = [
        (a * tried[:, 0].to(a) + b * tried[:, 1].to(a) + a * tried[:, 2].to(a)).double()
        for a, b in ((first, second), (first.double(), second.double()))
    ]
    x[row] = tried[(inner[0] * inner[1]).argmin()]
    assert (inner[0] * inner[1]).min() < 0
    return Problem(model, (x, torch.ones(num, 1)), "mse")


@pytest.mark.parametrize("name", RAMPS)
def test_one_sample_of_many_across_a_kink(name, monkeypatch):
    """It is found although samples are dear, so that only some of them are drawn."""
    monkeypatch.setattr(noise, "num_small", lambda operator: 1)
    problem = on_a_kink(RAMPS[name])
    wanted = true_noise(problem)
    assert wanted > 1e-5, wanted
    assert wanted / 3 <= Hessian(problem).noise <= 30 * wanted
    assert preflight_curvature(problem).noise_floor >= wanted / 3


def test_the_jacobian_norm_of_an_example_across_a_kink():
    problem = on_a_kink(torch.relu)
    found = jacobian_norms(InputJacobian(problem), top=3)
    exact = InputJacobian(problem.restricted(range(400), torch.float64)).materialize()
    true = exact.flatten(1).norm(dim=1).numpy()
    plain = InputJacobian(problem).materialize().double().flatten(1).norm(dim=1).numpy()
    assert abs(plain - true)[233] > 0.1 * true[233]
    assert np.all(abs(found.frobenius - true) <= found.noise * true.max()) and found.noise < 1e-4


def test_examples_along_the_second_dimension_or_in_rows_of_their_own():
    """A recurrent model's (time, sample, feature), and (sample x time, feature)."""
    watch = _Watch(4)
    with watch:
        torch.relu(torch.tensor([[1.0, 1e-9, 1.0, 1.0], [1.0, 1.0, 2.0, 1.0], [1.0, 1.0, 1.0, 1.0]])[:, :, None])
        torch.relu(torch.tensor([1.0] * 6 + [-1e-9, 1.0])[:, None])
        torch.relu(torch.tensor([1e-9, 1.0, 1.0]))  # of no sample
    assert (watch.nearest < 1).tolist() == [False, True, False, True]
    assert _Watch(2).nearest is None


def test_a_model_that_cannot_be_watched_has_its_noise_measured(monkeypatch):
    def fails(*_, **__):
        raise NotImplementedError("no dispatch")

    monkeypatch.setattr(noise, "num_small", lambda operator: 1)
    monkeypatch.setattr("curvtool.problem.kinks._called", fails)
    assert 1e-8 < Hessian(on_a_kink(torch.relu)).noise < 1e-5
