"""The input-output Jacobian against the dense one of every example by itself."""

import pytest
import torch
from cases import conv_batchnorm, dictionary, regression, tied
from oracles import dense_jacobian, relative
from torch import nn

from curvtool import CurvtoolError, InputJacobian, Problem


def test_equals_dense_jacobian():
    for make in (conv_batchnorm, regression):
        model, x, _ = make(torch.float64)
        problem = Problem(model, x, None)
        jacobian = InputJacobian(problem)
        true = dense_jacobian(problem, model, x)
        assert jacobian.shape == true.shape
        assert relative(jacobian.materialize(), true) < 1e-12


def test_products_are_adjoint_and_right():
    model, x, _ = conv_batchnorm(torch.float64)
    problem = Problem(model, x, None)
    jacobian, true = InputJacobian(problem), dense_jacobian(problem, model, x)
    rows = range(2, 7)
    u = torch.randn(5, jacobian.output_dim, dtype=torch.float64)
    v = torch.randn(5, jacobian.input_dim, dtype=torch.float64)
    pulled, pushed = jacobian.vjp(rows, u), jacobian.jvp(rows, v)
    assert relative(pulled, torch.einsum("ncd,nc->nd", true[2:7], u)) < 1e-12
    assert relative(pushed, torch.einsum("ncd,nd->nc", true[2:7], v)) < 1e-12
    assert torch.allclose((pushed * u).sum(1), (pulled * v).sum(1), rtol=1e-10)


def test_several_inputs_stand_side_by_side():
    model, inputs, _ = dictionary(torch.float64)
    jacobian = InputJacobian(Problem(model, (inputs, None), None))
    assert jacobian.shape == (9, 4, 5)
    one = lambda a, b: model(a, b)["logits"]
    left, right = torch.autograd.functional.jacobian(one, (inputs["a"][3], inputs["b"][3]))
    assert relative(jacobian.materialize()[3], torch.cat([left, right], dim=1)) < 1e-12


def test_tokens_are_differentiated_by_their_embeddings():
    model, ids, _ = tied(torch.float64)
    jacobian = InputJacobian(Problem(model, ids, None))
    assert jacobian.shape == (7, 3 * 6, 3 * 4)
    tail = lambda e: model.head(torch.tanh(model.mix(e)))
    true = torch.autograd.functional.jacobian(tail, model.embedding(ids[2]).detach()).reshape(18, 12)
    assert relative(jacobian.materialize()[2], true.detach()) < 1e-12


def test_examples_that_depend_on_each_other_are_refused():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=False)).double()
    with pytest.raises(CurvtoolError) as caught:
        InputJacobian(Problem(model, torch.randn(6, 3).double(), None))
    assert caught.value.code == "CT051" and caught.value.exit_status == 5


def test_integer_inputs_without_an_embedding_are_told():
    class OneHot(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(5, 2)

        def forward(self, ids):
            return self.layer(nn.functional.one_hot(ids, 5).float())

    with pytest.raises(CurvtoolError) as caught:
        InputJacobian(Problem(OneHot(), torch.tensor([0, 1, 2]), None))
    assert caught.value.code == "CT052"
