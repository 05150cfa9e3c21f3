"""The fused forward derivatives against torch's own reverse mode: J v, and J^T u on the graph that they leave."""

import pytest
import torch
from torch.nn import functional as F

from curvtool.operators.products import push_forward, push_forward_with_graph
from curvtool.problem.rewrites import attention

BLIND = torch.ones(5, 6, dtype=torch.bool).tril()
BLIND[2] = False  # a query that sees nothing
MASK = torch.where(torch.arange(6) > 3, -1.5, 0.2).double()

FUNCTIONS = {
    "linear": (lambda x, w, b: F.linear(x, w, b), (2, 3, 4), (5, 4), (5,)),
    "linear-without-bias": (lambda x, w: F.linear(x, w), (3, 4), (5, 4)),
    "linear-keywords": (lambda x, w, b: F.linear(input=x, weight=w, bias=b), (3, 4), (5, 4), (5,)),
    "linear-vector": (lambda x, w, b: F.linear(x, w, b), (4,), (5, 4), (5,)),
    "layer-norm": (lambda x, w, b: F.layer_norm(x, (4,), w, b), (2, 3, 4), (4,), (4,)),
    "layer-norm-plain": (lambda x: F.layer_norm(x, (3, 4)), (2, 3, 4)),
    "layer-norm-without-bias": (lambda x, w: F.layer_norm(x, [4], w, eps=1e-2), (2, 3, 4), (4,)),
    "layer-norm-of-a-view": (lambda x, w, b: F.layer_norm(x.mT, (3,), w, b), (2, 3, 4), (3,), (3,)),
    "softmax": (lambda x: F.softmax(x, 1), (2, 3, 4)),
    "attention": (F.scaled_dot_product_attention, (2, 3, 5, 4), (2, 3, 6, 4), (2, 3, 6, 4)),
    "attention-causal": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3),
        (2, 3, 5, 4),
        (2, 3, 5, 4),
        (2, 3, 5, 4),
    ),
    "attention-added-mask": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, MASK.expand(5, 6)),
        (2, 3, 5, 4),
        (2, 3, 6, 4),
        (2, 3, 6, 4),
    ),
    "attention-mask-a-query": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, BLIND),
        (2, 3, 5, 4),
        (2, 3, 6, 4),
        (2, 3, 6, 4),
    ),
    "attention-mask-for-all": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, BLIND[4:5]),
        (2, 3, 5, 4),
        (2, 3, 6, 4),
        (2, 3, 6, 4),
    ),
    "attention-learned-mask": (
        lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m),
        (2, 3, 5, 4),
        (2, 3, 6, 4),
        (2, 3, 6, 4),
        (5, 6),
    ),
    "attention-grouped": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True),
        (2, 4, 5, 4),
        (2, 2, 6, 4),
        (2, 2, 6, 4),
    ),
}


def tensors(shapes):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("scores", [2**22, 8])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_equals_torch(name, scores, monkeypatch):
    monkeypatch.setattr(attention, "SCORES", scores)
    function, *shapes = FUNCTIONS[name]
    leaves = tensors(shapes)
    directions = [torch.sin(torch.arange(leaf.numel(), dtype=leaf.dtype)).view_as(leaf) for leaf in leaves]

    def scalarless(parts):  # what goes in is no leaf, and tangents reach further operations
        return torch.sin(function(*[2 * part for part in parts]))

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        true, moved = torch.autograd.functional.jvp(lambda *parts: scalarless(parts), tuple(leaves), tuple(directions))
        pulled = torch.autograd.grad(scalarless(leaves), leaves, torch.cos(true))
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        output, tangent = push_forward_with_graph(scalarless, leaves, directions, fused=True)
        again = push_forward(scalarless, leaves, directions, fused=True)[1]
        back = torch.autograd.grad(output, leaves, torch.cos(true))
    assert torch.allclose(output, true, rtol=1e-12) and not tangent.requires_grad
    assert torch.allclose(tangent, moved, rtol=1e-11, atol=1e-12)
    assert torch.allclose(again, moved, rtol=1e-11, atol=1e-12)
    for mine, theirs in zip(back, pulled, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-11, atol=1e-12)


def test_what_is_not_a_number_stays_so():
    """A mask takes nothing but what is hidden out of a derivative."""
    q, k, v = tensors([(1, 1, 5, 4), (1, 1, 6, 4), (1, 1, 6, 4)])
    with torch.no_grad():
        q[0, 0, 4, 0] = float("nan")
    directions = [torch.ones_like(leaf) for leaf in (q, k, v)]
    attend = lambda parts: F.scaled_dot_product_attention(*parts, BLIND)
    tangent = push_forward(attend, [q, k, v], directions, fused=True)[1]
    assert bool(tangent[0, 0, 4].isnan().all()) and bool(tangent[0, 0, :4].isfinite().all())


@pytest.mark.parametrize("name", ["linear", "layer-norm", "attention-causal"])
def test_constants_have_no_tangent(name):
    function, *shapes = FUNCTIONS[name]
    leaves = tensors(shapes)
    for place in range(len(leaves)):
        constants = [leaf.detach() for leaf in leaves]

        def of_one(parts, place=place, constants=constants):
            return function(*constants[:place], parts[0], *constants[place + 1 :])

        direction = torch.cos(torch.arange(leaves[place].numel(), dtype=torch.float64)).view_as(leaves[place])
        found = push_forward_with_graph(of_one, [leaves[place]], [direction], fused=True)[1]
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            true = push_forward(of_one, [leaves[place]], [direction])[1]
        assert torch.allclose(found, true, rtol=1e-11, atol=1e-12)
