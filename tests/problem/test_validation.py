"""Samples that depend on one another are refused, and outputs that cancel are not; looked at over all the data."""

import pytest
import torch
from torch import nn

from curvtool import CurvtoolError, Hessian, Problem
from curvtool.problem.losses.guess import guess_loss
from curvtool.problem.sources.objects import from_object
from curvtool.problem.validation import check_problem


class Residual(nn.Module):
    """What is left of a fit that is almost exact: a small difference of large numbers, and of other samples a part."""

    def __init__(self, coupling=0.0, size=100.0):
        super().__init__()
        self.fit, self.coupling, self.size = nn.Linear(1, 1), coupling, size
        nn.init.constant_(self.fit.weight, 3.0)
        nn.init.constant_(self.fit.bias, size)

    def forward(self, x):
        found = self.fit(x) - (3 * x + self.size * (1 + 1e-6)) + 1e-6 * self.fit(x).sin()
        return found + self.coupling * x.mean()


def residuals(dtype, **options):
    torch.manual_seed(0)
    model = Residual(**options).to(dtype)
    return Problem(model, (torch.rand(50, 1).to(dtype), torch.zeros(50, 1, dtype=dtype)), "mse")


@pytest.mark.parametrize("size", [100.0, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_outputs_that_cancel_are_independent(dtype, size):
    check_problem(residuals(dtype, size=size))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_coupling_beside_outputs_that_cancel_is_found(dtype):
    with pytest.raises(CurvtoolError, match="CT051"):
        check_problem(residuals(dtype, coupling=1e-4))


class Random(Residual):
    def forward(self, x):
        return super().forward(x) + 1e-5 * torch.rand(len(x), 1, dtype=x.dtype)


def test_a_random_model_is_random_in_float64_too():
    with pytest.raises(CurvtoolError, match="CT033"):
        check_problem(Problem(Random(), (torch.rand(50, 1), torch.zeros(50, 1)), "mse"))


class Later(nn.Linear):
    """Samples that meet one another where their first number is positive."""

    def forward(self, x):
        shared = torch.where(x[:, :1] > 0, x, torch.zeros_like(x)).mean(0)
        return super().forward(torch.where(x[:, :1] > 0, x - shared, x))


def test_samples_are_tried_over_all_the_data():
    torch.manual_seed(0)
    x = torch.rand(80, 3)
    x[:20] *= -1
    with pytest.raises(CurvtoolError, match="CT051"):
        check_problem(Problem(Later(3, 2), (x, torch.randint(0, 2, (80,)))))


class Fixed(Residual):
    def forward(self, x):
        if x.dtype != torch.float32:
            raise RuntimeError("expected scalar type Float")
        return super().forward(x)


def test_in_one_precision_alone_outputs_that_cancel_are_independent():
    torch.manual_seed(0)
    problem = Problem(Fixed(), (torch.rand(50, 1), torch.zeros(50, 1)), "mse")
    check_problem(problem)
    assert Hessian(problem).noise > 0


def test_a_loss_is_guessed_from_all_targets():
    targets = torch.zeros(200, 3)
    targets[:, 0] = 1.0
    assert guess_loss(nn.Linear(3, 3), from_object((torch.ones(200, 3), targets)))[0] == "cross-entropy"
    targets[150] = torch.tensor([0.0, 2.5, -1.0])
    assert guess_loss(nn.Linear(3, 3), from_object((torch.ones(200, 3), targets)))[0] == "mse"
    targets[150] = torch.tensor([0.0, 1.0, 1.0])
    assert guess_loss(nn.Linear(3, 3), from_object((torch.ones(200, 3), targets)))[0] == "bce-with-logits"
