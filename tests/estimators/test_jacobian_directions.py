"""Singular vectors, the norm from l-infinity to l2, and few inputs, against dense Jacobians."""

import itertools

import numpy as np
import pytest
import torch
from test_jacobian_norms import dense_norms, wide
from torch import nn

from curvtool import CurvtoolError, InputJacobian, Problem, jacobian_directions, jacobian_norms


@pytest.mark.parametrize("dense", [True, False])
def test_singular_vectors(dense, monkeypatch):
    if not dense:
        monkeypatch.setattr("curvtool.estimators.jacobian_directions.MAX_DENSE", 5)
    jacobian = InputJacobian(wide())
    matrices = jacobian.materialize()
    found = jacobian_directions(jacobian, [3, 17, 39])
    assert found.inputs.shape == (3, 20) and found.outputs.shape == (3, 60)
    for place, row in enumerate(found.index):
        _, values, right = torch.linalg.svd(matrices[row])
        assert float(found.spectral[place]) == pytest.approx(float(values[0]), rel=1e-5)
        v, u = found.inputs[place], found.outputs[place]
        assert 1 - abs(float(v @ right[0])) <= max(float(found.error[place]) ** 2, 1e-12)
        assert torch.allclose(matrices[row] @ v, found.spectral[place] * u, atol=1e-3 * float(values[0]))
        assert float(v[v.abs().argmax()]) > 0 and (dense == (float(found.error[place]) == 0))


def test_no_such_example():
    with pytest.raises(CurvtoolError, match="CT001"):
        jacobian_directions(InputJacobian(wide()), [40])


def test_few_inputs_and_many_outputs_are_exact():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 20), nn.Tanh(), nn.Linear(20, 50)).double()
    jacobian = InputJacobian(Problem(model, torch.randn(12, 3).double(), None))
    result = jacobian_norms(jacobian, max_exact_outputs=8)
    frobenius, spectral = dense_norms(jacobian)
    assert result.exact and np.allclose(result.frobenius, frobenius, rtol=1e-10)
    assert np.allclose(result.spectral, spectral, rtol=1e-8)
    assert (result.num_jvps, result.num_vjps) == (3.0, 0.0)


@pytest.mark.parametrize(("inputs", "outputs"), [(8, 3), (5, 9)])
def test_bounds_of_the_linf_norm(inputs, outputs):
    """Against all 2^d corners, where the maximum is."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(inputs, 20), nn.Tanh(), nn.Linear(20, outputs)).double()
    jacobian = InputJacobian(Problem(model, torch.randn(30, inputs).double(), None))
    result = jacobian_norms(jacobian, linf=True)
    corners = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=inputs)), dtype=torch.float64)
    true = torch.linalg.vector_norm(torch.einsum("ncd,kd->nkc", jacobian.materialize(), corners), dim=2).amax(1).numpy()
    assert (result.linf_lower <= true * (1 + 1e-12)).all() and (true <= result.linf_upper * (1 + 1e-12)).all()
    assert np.mean(result.linf_lower / true) > 0.97
    assert jacobian_norms(jacobian).linf_lower is None
