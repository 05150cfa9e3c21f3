"""Operators made of others, and the parameter Jacobian, against dense matrices."""

import numpy as np
import pytest
import torch
from cases import CASES
from oracles import dense_hessian
from wrappers import deviations, wrapped

from curvtool import (
    BlockOperator,
    CurvtoolError,
    DeflatedOperator,
    Hessian,
    MatrixOperator,
    ParameterJacobian,
    PreconditionedOperator,
    ShiftedOperator,
    SumOperator,
    eigenvalues,
    trace,
)

FEW = CASES[::3]


@pytest.mark.parametrize(
    "case", [case if case in FEW else pytest.param(case, marks=pytest.mark.slow) for case in CASES], ids=str
)
def test_against_the_dense_matrices(case):
    for name, operator, dense in wrapped(case):
        for what, deviation in deviations(operator, dense):
            assert deviation < 1e-10, (name, what, deviation)


@pytest.mark.parametrize("check", ["fast", "full", "none"])
def test_estimators_take_them_in_float32(check):
    case = CASES[0]
    for name, operator, dense in wrapped(case, dtype=torch.float32):
        top = eigenvalues(operator, 1, check=check).eigenvalues[0]
        largest = float(torch.linalg.eigvalsh(dense)[-1])
        assert abs(top.value - largest) <= top.error_bound + 1e-5 * abs(largest), name
        found = trace(operator, method="exact")
        assert found.value == pytest.approx(float(dense.trace()), rel=1e-4, abs=1e-4 * float(dense.norm())), name


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


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case", CASES[:3], ids=str)
def test_the_error_of_a_preconditioned_matrix_in_float32(case, seed):
    """Of diagonals over six decades, as an optimizer's are."""
    dense = dense_hessian(case)
    scale = 10 ** (6 * torch.rand(len(dense), generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 3)
    true = torch.linalg.eigvalsh(scale[:, None] * dense * scale)
    found = eigenvalues(PreconditionedOperator(Hessian(case.problem(torch.float32), batch_size=3), scale), 2)
    for pair in found.eigenvalues:
        assert float((true - pair.value).abs().min()) <= pair.error_bound < 0.01 * float(true.abs().max())


def test_a_diagonal_that_is_none_is_refused():
    operator = MatrixOperator(torch.eye(3))
    for diagonal in (torch.ones(4), torch.ones(1, 3), torch.tensor([1.0, torch.nan, 1.0])):
        with pytest.raises(CurvtoolError, match="CT001"):
            PreconditionedOperator(operator, diagonal)
