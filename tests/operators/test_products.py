"""Products on plain functions: the textbook's examples read like the textbook."""

import doctest

import pytest
import torch

from curvtool import hessian, hvp, jacobian, jvp, vjp
from curvtool.operators import products


def f(x):
    return torch.stack([x[0] + x[1], x[0] * x[1], x[0] ** 2])


def g(x):
    return x[0] ** 2 + x[0] * x[1] + 3 * x[1] ** 2


POINT = torch.tensor([2.0, 3.0])


def test_jacobian_of_the_textbook():
    assert jacobian(f, POINT).tolist() == [[1, 1], [3, 2], [4, 0]]
    assert vjp(f, POINT, torch.tensor([1.0, 10.0, 100.0])).tolist() == [431, 21]
    assert jvp(f, POINT, torch.tensor([1.0, 0.0])).tolist() == [1, 3, 4]


def test_hessian_of_the_textbook():
    assert hessian(g, POINT).tolist() == [[2, 1], [1, 6]]
    assert hvp(g, POINT, torch.tensor([1.0, 0.5])).tolist() == [2.5, 4]


def test_higher_derivatives_by_nesting():
    cube = lambda x: x**3
    at = torch.tensor(3.0)
    assert float(hessian(cube, at)) == 18
    assert float(jacobian(lambda x: hessian(cube, x), at)) == 6
    assert float(jacobian(lambda x: hvp(cube, x, torch.ones(())), at)) == 6
    assert float(jacobian(lambda x: jvp(cube, x, torch.ones(())), at)) == 18
    assert float(jacobian(lambda x: vjp(cube, x, torch.ones(())), at)) == 18


def test_constant_and_linear_functions_have_zero_derivatives():
    constant = lambda x: torch.ones(2)
    assert jacobian(constant, POINT).tolist() == [[0, 0], [0, 0]]
    assert hessian(lambda x: 2 * x.sum(), POINT).tolist() == [[0, 0], [0, 0]]
    assert hvp(lambda x: torch.tensor(1.0), POINT, POINT).tolist() == [0, 0]
    assert jvp(constant, POINT, POINT).tolist() == [0, 0]


def test_matrix_arguments_keep_their_shape():
    x = torch.randn(2, 3, dtype=torch.float64)
    function = lambda m: (m @ m.T).sin().sum(0)
    dense = torch.autograd.functional.jacobian(function, x)
    assert torch.allclose(jacobian(function, x), dense, rtol=1e-12)
    v = torch.randn_like(x)
    assert torch.allclose(jvp(function, x, v), (dense * v).sum((1, 2)), rtol=1e-12)


def test_jvp_and_vjp_are_adjoint():
    x, v = torch.randn(5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    matrix = torch.randn(3, 5, dtype=torch.float64)
    u = torch.randn(3, dtype=torch.float64)
    function = lambda z: torch.tanh(matrix @ z)
    left, right = float(u @ jvp(function, x, v)), float(vjp(function, x, u) @ v)
    assert left == pytest.approx(right, rel=1e-10)


def test_inputs_are_left_alone():
    x = POINT.clone()
    jacobian(f, x)
    hessian(g, x)
    assert not x.requires_grad and x.grad is None


def test_examples_in_the_documentation():
    assert doctest.testmod(products).failed == 0
    assert doctest.testmod(products).attempted > 0
