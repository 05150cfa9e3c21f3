"""Jacobian norms against the dense Jacobians, exact and by probes."""

import numpy as np
import pytest
import torch
from cases import conv_batchnorm, dictionary, tied
from torch import nn

from curvtool import CurvtoolError, InputJacobian, Interrupted, Problem, jacobian_norms


def dense_norms(jacobian):
    matrices = jacobian.materialize().double()
    return torch.linalg.matrix_norm(matrices).numpy(), torch.linalg.matrix_norm(matrices, 2).numpy()


def wide(num=40, outputs=60):
    """A smooth model of many outputs."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 30), nn.Tanh(), nn.Linear(30, outputs)).double()
    return Problem(model, torch.randn(num, 20).double(), None)


@pytest.mark.parametrize("make", [conv_batchnorm, dictionary, tied])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_exact(make, batch_size):
    model, inputs, _ = make(torch.float64)
    jacobian = InputJacobian(Problem(model, (inputs, None), None), batch_size=batch_size)
    result = jacobian_norms(jacobian)
    frobenius, spectral = dense_norms(jacobian)
    assert result.exact and result.converged and result.frobenius_stderr is None
    assert np.allclose(result.frobenius, frobenius, rtol=1e-10)
    assert np.allclose(result.spectral, spectral, rtol=1e-8)
    assert result.cost.data_passes == pytest.approx(min(jacobian.output_dim, jacobian.input_dim))


def test_small_budget_cuts_the_rows_not_the_numbers():
    problem = wide()
    whole, cut = (jacobian_norms(InputJacobian(problem, memory_budget=b)) for b in (2**30, 100_000))
    assert np.allclose(whole.spectral, cut.spectral, rtol=1e-10)


def test_many_outputs_by_lanczos_and_probes():
    jacobian = InputJacobian(wide(), batch_size=16)
    frobenius, spectral = dense_norms(jacobian)
    result = jacobian_norms(jacobian, max_exact_outputs=8, top=5)
    assert not result.exact and result.converged
    assert np.allclose(result.spectral, spectral, rtol=1e-4)
    assert np.all(np.abs(result.spectral - spectral) <= result.spectral_error + 1e-8)
    assert result.top_exact and set(result.top) == set(np.argsort(-spectral)[:5].tolist())
    listed = list(result.top)
    assert np.allclose(result.frobenius[listed], frobenius[listed], rtol=1e-10)
    assert np.all(result.frobenius_stderr[listed] == 0)


def test_probes_are_unbiased_and_their_error_is_honest():
    jacobian = InputJacobian(wide())
    frobenius, _ = dense_norms(jacobian)
    scores, squares = [], []
    for seed in range(300):
        result = jacobian_norms(jacobian, norm="frobenius", max_exact_outputs=8, top=0, seed=seed)
        scores.append((result.frobenius - frobenius) / result.frobenius_stderr)
        squares.append(result.frobenius**2)
    scores = np.stack(scores)
    assert 0.8 < scores.std() < 1.4
    error = np.stack(squares).mean(0) - frobenius**2
    assert np.all(np.abs(error) < 5 * np.stack(squares).std(0) / np.sqrt(300))


@pytest.mark.parametrize("norm", ["frobenius", "spectral"])
def test_one_norm_alone(norm):
    result = jacobian_norms(InputJacobian(wide()), norm=norm)
    assert (result.spectral is None) == (norm == "frobenius")
    assert (result.frobenius is None) == (norm == "spectral")
    key = result.spectral if norm == "spectral" else result.frobenius
    assert list(result.top) == np.argsort(-key, kind="stable")[:10].tolist()


def test_constant_output_has_norm_zero():
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(torch.ones(3))

        def forward(self, x):
            return x * 0 + self.bias

    problem = Problem(Constant(), torch.randn(5, 3), None)
    for limit in (10, 1):
        result = jacobian_norms(InputJacobian(problem), max_exact_outputs=limit)
        assert np.all(result.spectral == 0) and np.all(result.frobenius == 0)


def test_nothing_computed_is_lost():
    jacobian = InputJacobian(wide(), batch_size=10)
    exact, calls = jacobian.linearize, []

    def failing(rows):
        calls.append(rows)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return exact(rows)

    jacobian.linearize = failing
    with pytest.raises(Interrupted) as caught:
        jacobian_norms(jacobian, top=3)
    partial = caught.value.partial
    assert len(partial.spectral) == 20 and len(partial.top) == 3 and not partial.converged


def test_senseless_arguments_are_refused():
    for arguments in ({"norm": "nuclear"}, {"top": -1}):
        with pytest.raises(CurvtoolError, match="CT001"):
            jacobian_norms(InputJacobian(wide()), **arguments)
