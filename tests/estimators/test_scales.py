"""All results are in proportion to the matrix, however small or large it is; where squares are lost, it is said."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from curvtool import (
    InputJacobian,
    Interrupted,
    MatrixOperator,
    Problem,
    density,
    diagonal,
    eigenvalues,
    jacobian_directions,
    jacobian_norms,
    trace,
)
from curvtool.errors import DerivativeError

SCALES = {torch.float32: (1e-30, 1e-22, 1e18, 1e30), torch.float64: (1e-130, 1e-90, 1e90, 1e130)}
RANDOM = torch.randn(40, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
MATRICES = {
    "indefinite": (RANDOM + RANDOM.T) / 2,
    "positive": RANDOM @ RANDOM.T / 8,
    "rank one": torch.outer(RANDOM[0], RANDOM[0]),
    "nearly diagonal": 5 * torch.eye(40, dtype=torch.float64) + 0.9 * torch.eye(40, dtype=torch.float64).roll(1, 0),
}
MATRICES["nearly diagonal"] = (MATRICES["nearly diagonal"] + MATRICES["nearly diagonal"].T) / 2


def of_trace(method):
    def numbers(operator):
        found = trace(operator, method=method, max_passes=20)
        return [found.value, found.stderr, *found.ci95]

    return numbers


def of_eigenvalues(method):
    def numbers(operator):
        found = eigenvalues(operator, 5, method=method)
        return [x for each in found.eigenvalues for x in (each.value, each.error_bound)]

    return numbers


def of_diagonal(operator):
    found = diagonal(operator, method="hutchinson", max_passes=20)
    return [*found.diagonal.tolist(), *found.stderr.tolist(), found.sum, found.sum_stderr]


def of_density(operator):
    found = density(operator, method="probes")
    return [found.trace, *found.trace_ci95, found.width]


ESTIMATORS = {
    "hutchinson": of_trace("hutchinson"),
    "hutch++": of_trace("hutch++"),
    "xtrace": of_trace("xtrace"),
    "lanczos": of_eigenvalues("lanczos"),
    "power": of_eigenvalues("power"),
    "diagonal": of_diagonal,
    "density": of_density,
}


@pytest.mark.parametrize("dtype", SCALES, ids=str)
@pytest.mark.parametrize("matrix", MATRICES.values(), ids=MATRICES)
@pytest.mark.parametrize("numbers", ESTIMATORS.values(), ids=ESTIMATORS)
def test_in_proportion_to_the_matrix(numbers, matrix, dtype):
    plain = np.array(numbers(MatrixOperator(matrix.to(dtype))))
    rounding = (2e-3 if dtype == torch.float32 else 1e-6) * np.abs(plain).max()
    for scale in SCALES[dtype]:
        found = np.array(numbers(MatrixOperator((matrix * scale).to(dtype)))) / scale
        assert found == pytest.approx(plain, rel=1e-3, abs=rounding), scale


@pytest.mark.parametrize("scale", [1e-290, 1e-170, 1e170, 1e290])
@pytest.mark.parametrize("numbers", ESTIMATORS.values(), ids=ESTIMATORS)
def test_beyond_the_range_nothing_is_stated(numbers, scale):
    with np.errstate(all="ignore"), pytest.raises((Interrupted, DerivativeError), match="CT054"):
        numbers(MatrixOperator(MATRICES["positive"] * scale))


def test_a_matrix_of_zeros_has_its_scale():
    assert trace(MatrixOperator(torch.zeros(9, 9, dtype=torch.float64))).value == 0.0
    assert eigenvalues(MatrixOperator(torch.zeros(9, 9, dtype=torch.float64)), 2).eigenvalues[0].value == 0.0


class Scaled(nn.Module):
    def __init__(self, scale, num_outputs=7):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, num_outputs))
        self.scale = scale

    def forward(self, inputs):
        return self.layers(inputs) * self.scale


def jacobian_of(scale, dtype, num_outputs=7):
    inputs = torch.randn(20, 12, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(dtype)
    inputs[0] *= 1e-3  # examples need not be alike
    return InputJacobian(Problem(Scaled(scale, num_outputs).to(dtype), (inputs, None), None))


def norms_of(jacobian, **options):
    found = jacobian_norms(jacobian, **options)
    tables = [found.frobenius_estimates, found.spectral_estimates]
    parts = [getattr(t, f.name) for t in tables for f in dataclasses.fields(t) if f.name not in ("degrees", "stderr")]
    return np.concatenate([part.reshape(-1) for part in parts if part is not None])


@pytest.mark.parametrize("dtype", SCALES, ids=str)
@pytest.mark.parametrize(
    "options", [{"linf": True}, {"max_exact_outputs": 1}, {"max_exact_outputs": 1, "max_recomputed": 0}], ids=str
)
def test_jacobian_norms_in_proportion_to_the_outputs(options, dtype):
    plain = norms_of(jacobian_of(1.0, dtype), **options)
    for scale in (*SCALES[dtype], 1e-200 if dtype == torch.float64 else 1e-34):
        found = norms_of(jacobian_of(scale, dtype), **options)
        assert found / scale == pytest.approx(plain, rel=1e-4, nan_ok=True), scale


@pytest.mark.parametrize("most_dense", [1024, 1])
def test_leading_directions_of_small_outputs(most_dense, monkeypatch):
    monkeypatch.setattr("curvtool.estimators.jacobian_directions.MAX_DENSE", most_dense)
    plain, small = (jacobian_directions(jacobian_of(s, torch.float32), [0, 3]) for s in (1.0, 1e-20))
    assert small.spectral.numpy() / 1e-20 == pytest.approx(plain.spectral.numpy(), rel=1e-4)
    assert float((small.inputs * plain.inputs).sum(1).min()) > 0.999
