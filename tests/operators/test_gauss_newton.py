"""Gauss-Newton and Fisher matrices against dense oracles, over the table of cases."""

import pytest
import torch
from cases import CASES
from oracles import dense_empirical_fisher, dense_fisher, dense_gauss_newton, relative

from curvtool import Problem
from curvtool.errors import LoadError, UsageError
from curvtool.operators.calibration import Way
from curvtool.operators.fisher import EmpiricalFisher, Fisher
from curvtool.operators.gauss_newton import GaussNewton
from curvtool.operators.hessian import Hessian

MATRICES = [
    pytest.param(GaussNewton, dense_gauss_newton, id="ggn"),
    pytest.param(EmpiricalFisher, dense_empirical_fisher, id="empirical-fisher"),
]


@pytest.mark.parametrize("mode", ["auto", "kept", "fresh", "forward"])
@pytest.mark.parametrize(("operator", "oracle"), MATRICES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_dense_matrix(case, operator, oracle, mode):
    dense = oracle(case)
    found = operator(case.problem(), batch_size=case.batch_size, mode=mode).materialize()
    assert relative(found, dense) < 1e-8
    assert relative(found, found.T) < 1e-10


@pytest.mark.parametrize("case", [c for c in CASES if c.loss == "cross-entropy"], ids=str)
def test_fisher_is_the_expectation_over_the_models_own_targets(case):
    assert relative(Fisher(case.problem()).materialize(), dense_fisher(case)) < 1e-8


@pytest.mark.parametrize("case", [c for c in CASES if c.loss in ("mse", "bce-with-logits")], ids=str)
def test_fisher_of_the_elementwise_likelihoods_by_sampling(case):
    """Targets drawn from the model: the empirical Fisher of many draws comes near the Fisher information."""
    model, inputs, _ = case.make(torch.float64)
    z = model(inputs).detach()
    generator = torch.Generator().manual_seed(0)
    many = 4000
    if case.loss == "mse":  # variance 1/2
        draws = [z + torch.randn(z.shape, generator=generator, dtype=z.dtype) * 0.5**0.5 for _ in range(many)]
    else:
        draws = [(torch.rand(z.shape, generator=generator, dtype=z.dtype) < z.sigmoid()).to(z) for _ in range(many)]
    data = (inputs.repeat(many, 1), torch.cat(draws))
    scale = many if case.options.get("reduction") == "sum" else 1
    sampled = EmpiricalFisher(Problem(model, data, case.loss, **case.options)).materialize() / scale
    assert relative(sampled, Fisher(case.problem()).materialize()) < 0.05


@pytest.mark.parametrize("operator", [GaussNewton, EmpiricalFisher, Hessian])
def test_terms_add_up(operator):
    case = CASES[0]
    found = operator(case.problem(), batch_size=2, group_size=3)
    v = found.space.normal(5)
    total = sum(found.terms.product(t, v) for t in range(found.terms.number))
    assert relative(total, found @ v) < 1e-12
    assert found.data_passes == pytest.approx(2)


@pytest.mark.parametrize("operator", [GaussNewton, EmpiricalFisher, Hessian])
def test_parts_of_the_data_add_up(operator):
    found = operator(CASES[2].problem(), batch_size=2)
    v, w = (found.space.normal(i) for i in (1, 2))
    product, shares = found.matvec_in_parts(v, torch.stack([v, w]))
    assert shares.shape == (3, 2)
    assert relative(shares.sum(0), torch.stack([v @ product, w @ product])) < 1e-12
    assert found.part_weights.sum() == pytest.approx(1)
    assert found.part_weights[2] == 0  # all of its targets are ignored


class NoForward(torch.autograd.Function):
    """tanh without a rule for forward mode, twice differentiable."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.tanh(x)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * (1 - torch.tanh(x) ** 2)


class NoForwardModel(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)

    def forward(self, x):
        return self.b(NoForward.apply(self.a(x)))


def test_where_forward_mode_fails_reverse_mode_twice_takes_its_place():
    torch.manual_seed(0)
    model = NoForwardModel().double()
    x, y = torch.randn(7, 3, dtype=torch.float64), torch.randint(0, 2, (7,))
    plain = torch.nn.Sequential(model.a, torch.nn.Tanh(), model.b)
    found = GaussNewton(Problem(model, (x, y)))
    assert relative(found.materialize(), GaussNewton(Problem(plain, (x, y))).materialize()) < 1e-12
    assert not found.execution.matrix.forward_works
    assert Way("forward", "torch") in found.execution.calibrate_thoroughly().rejected


def test_a_loss_that_is_linear_in_the_outputs_is_refused():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LogSoftmax(1))
    data = (torch.randn(7, 3), torch.randint(0, 4, (7,)))

    def nll(output, target):
        return torch.nn.functional.nll_loss(output, target, reduction="none")

    with pytest.raises(UsageError, match="linear in the model's outputs"):
        GaussNewton(Problem(model, data, nll))
    EmpiricalFisher(Problem(model, data, nll))


def test_fisher_needs_a_likelihood_and_the_empirical_one_a_loss_a_sample():
    model, data = torch.nn.Linear(3, 1), (torch.randn(7, 3), torch.randn(7, 1))
    with pytest.raises(UsageError, match="negative log-likelihood"):
        Fisher(Problem(model, data, lambda z, y: (z - y).square().sum(1)))
    with pytest.raises(LoadError, match="no loss a sample"):
        EmpiricalFisher(Problem(model, data, lambda z, y: (z - y).square().mean())).materialize()


def test_probability_targets():
    torch.manual_seed(0)
    model, x = torch.nn.Linear(3, 4).double(), torch.randn(7, 3, dtype=torch.float64)
    y = torch.rand(7, 4, dtype=torch.float64)  # not normalised: torch takes them as they are
    problem = Problem(model, (x, y))
    # the model is linear in its parameters: the Gauss-Newton matrix is the Hessian
    assert relative(GaussNewton(problem).materialize(), Hessian(problem).materialize()) < 1e-12


def _regression(loss, outliers, num=200, **options):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)).double()
    x = torch.randn(num, 3, dtype=torch.float64)
    y = model(x).detach() + 0.1 * torch.randn(num, 1, dtype=torch.float64)
    y[outliers] += 50
    return Problem(model, (x, y), loss)


@pytest.mark.parametrize("loss", ["huber", "smooth-l1"])
@pytest.mark.parametrize("outliers", [slice(0, 16), slice(16, None), slice(0, 199)])
def test_a_robust_loss_is_not_zero_because_some_samples_are_outliers(loss, outliers):
    problem = _regression(loss, outliers)
    few = [row for row in range(200) if row not in range(200)[outliers]]
    wanted = GaussNewton(problem.restricted(few, torch.float64)).materialize() * len(few) / 200
    assert relative(GaussNewton(problem).materialize(), wanted) < 1e-10 and bool(wanted.any())


@pytest.mark.parametrize(("loss", "outliers"), [("huber", slice(None)), ("l1", slice(0, 0))])
def test_a_loss_that_is_linear_at_every_sample_is_refused(loss, outliers):
    with pytest.raises(UsageError, match=r"CT008.*every sample"):
        GaussNewton(_regression(loss, outliers))


def test_counts_of_zero_in_the_first_samples_are_no_linear_loss():
    from curvtool.problem.losses.elementwise import PoissonNLL

    problem = _regression("mse", slice(0, 0))
    counts = torch.zeros(200, 1, dtype=torch.float64)
    counts[150] = 3.0
    model = torch.nn.Sequential(problem.model, torch.nn.Softplus())
    curved = Problem(model, (problem.data.inputs, counts), PoissonNLL(log_input=False))
    assert bool(GaussNewton(curved).materialize().any())
