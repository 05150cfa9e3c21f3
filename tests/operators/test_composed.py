"""Operators made of others, and the parameter Jacobian, against dense matrices."""

import numpy as np
import pytest
import torch
from cases import CASES
from oracles import dense_gauss_newton, dense_hessian

from curvtool import (
    BlockOperator,
    CurvtoolError,
    DeflatedOperator,
    GaussNewton,
    Hessian,
    MatrixOperator,
    ParameterJacobian,
    ScaledOperator,
    ShiftedOperator,
    SumOperator,
    eigenvalues,
    trace,
)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_the_dense_matrices(case):
    dense = dense_hessian(case)
    operator = Hessian(case.problem(), batch_size=3, group_size=4)
    size = len(dense)
    eye = torch.eye(size, dtype=dense.dtype)
    basis = torch.linalg.qr(torch.randn(size, 2, generator=torch.Generator().manual_seed(0), dtype=dense.dtype))[0].T
    left = eye - basis.T @ basis
    index = torch.tensor([size - 1, 0, size // 2])
    both = SumOperator([operator, GaussNewton(case.problem(), batch_size=3, group_size=5)], [1.0, -0.5])
    made = {
        "scaled": (ScaledOperator(operator, -3.0), -3 * dense),
        "shifted": (ShiftedOperator(operator, 0.7), dense + 0.7 * eye),
        "sum": (both, dense - 0.5 * dense_gauss_newton(case)),
        "deflated": (DeflatedOperator(operator, basis), left @ dense @ left),
        "block": (BlockOperator(operator, index), dense[index][:, index]),
    }
    for name, (found, true) in made.items():
        assert torch.allclose(found.materialize(), true, rtol=1e-8, atol=1e-10), name
        vector = torch.randn(len(true), generator=torch.Generator().manual_seed(1), dtype=dense.dtype)
        terms = sum(found.term_matvec(t, vector) for t in range(found.num_terms))
        assert torch.allclose(terms, true @ vector, rtol=1e-8, atol=1e-9), name


def test_estimators_take_them():
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(30, 30, generator=generator, dtype=torch.float64)
    matrix = matrix + matrix.T
    operator = MatrixOperator([matrix / 2] * 2)
    values, vectors = torch.linalg.eigh(matrix)
    top = eigenvalues(DeflatedOperator(operator, vectors[:, -2:].T.contiguous()), 1, rtol=1e-10)
    assert top.values[0] == pytest.approx(float(values[-3]), rel=1e-8)
    shifted = eigenvalues(ShiftedOperator(operator, 100.0), 2, rtol=1e-10)
    assert np.allclose(shifted.values, (values[[-1, -2]] + 100).numpy(), rtol=1e-8)
    block = BlockOperator(operator, torch.arange(10))
    assert trace(block, rtol=0.01).value == pytest.approx(float(matrix.diagonal()[:10].sum()))
    operator = MatrixOperator([matrix / 4] * 4)  # parts enough for a standard error over the data
    both = SumOperator([operator, operator])
    assert both.noise >= both.space.eps  # measured once, by products of its own
    before = both.num_products
    spread = eigenvalues(both, 1, rtol=1e-8)
    assert spread.cost.num_hvps == both.num_products - before > 0
    assert spread.eigenvalues[0].data_stderr is not None


@pytest.mark.parametrize("case", CASES, ids=str)
def test_parameter_jacobian(case):
    problem = case.problem()
    jacobian = ParameterJacobian(problem, batch_size=3)
    dense = jacobian.materialize()
    assert dense.shape == jacobian.shape
    parameters = list(problem.parameters.values())
    with problem.context():
        output = problem.prediction(problem.forward(problem.parameters, problem.batch(range(problem.num_samples))[0]))
        output = output.reshape(problem.num_samples, -1)
        row = torch.autograd.grad(output[-1, 0], parameters, retain_graph=True, materialize_grads=True)
    assert torch.allclose(dense[-1, 0], torch.cat([r.reshape(-1) for r in row]), rtol=1e-8, atol=1e-12)
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(jacobian.space.dim, generator=generator, dtype=torch.float64)
    weights = torch.randn(*jacobian.shape[:2], generator=generator, dtype=torch.float64)
    assert torch.allclose(jacobian.jvp(vector), dense @ vector, rtol=1e-8, atol=1e-10)
    assert torch.allclose(jacobian.vjp(weights), torch.einsum("nc,ncp->p", weights, dense), rtol=1e-8, atol=1e-10)


def test_senseless_arguments_are_refused():
    small, large = MatrixOperator(torch.eye(3)), MatrixOperator(torch.eye(4))
    for make in (
        lambda: SumOperator([small, large]),
        lambda: SumOperator([]),
        lambda: DeflatedOperator(small, torch.ones(2, 3)),
        lambda: DeflatedOperator(small, torch.ones(1, 4)),
        lambda: BlockOperator(small, torch.tensor([0, 3])),
        lambda: BlockOperator(small, torch.tensor([1, 1])),
        lambda: ParameterJacobian(CASES[0].problem()).vjp(torch.zeros(2, 2)),
    ):
        with pytest.raises(CurvtoolError, match="CT001"):
            make()
    with pytest.raises(CurvtoolError, match="CT006"):
        ParameterJacobian(CASES[0].problem()).materialize(max_bytes=10)
