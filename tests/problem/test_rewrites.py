"""Rewritten operations against torch's own, to the third derivative, in reverse and in forward mode."""

import pytest
import torch
import torch.autograd.forward_ad as fwAD
from torch.autograd import grad
from torch.func import functional_call, hessian, vmap
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from curvtool import Hessian, Problem
from curvtool.problem.rewrites import attention
from curvtool.problem.rewrites.mode import Rewriting

CONVOLUTIONS = {
    "1d": (F.conv1d, (3, 4, 9), (6, 4, 3), {"padding": 1}),
    "1d-strided": (F.conv1d, (3, 4, 9), (6, 4, 3), {"stride": 2, "padding": 1}),
    "1d-same-even": (F.conv1d, (3, 4, 9), (6, 4, 4), {"padding": "same"}),
    "2d": (F.conv2d, (3, 4, 6, 5), (6, 4, 3, 3), {"padding": (1, 2)}),
    "2d-strided": (F.conv2d, (2, 4, 6, 5), (6, 4, 3, 2), {"stride": (2, 1)}),
    "2d-dilated": (F.conv2d, (2, 4, 7, 7), (6, 4, 3, 3), {"dilation": 2, "padding": 2}),
    "2d-grouped": (F.conv2d, (2, 4, 6, 5), (6, 2, 3, 3), {"groups": 2, "padding": 1}),
    "2d-depthwise": (F.conv2d, (2, 4, 6, 5), (8, 1, 3, 3), {"groups": 4, "stride": 2, "padding": 1}),
    "2d-same": (F.conv2d, (2, 4, 6, 5), (3, 4, 3, 4), {"padding": "same", "dilation": (1, 2)}),
    "2d-valid": (F.conv2d, (2, 4, 6, 5), (3, 4, 3, 2), {"padding": "valid"}),
    "2d-unbatched": (F.conv2d, (4, 6, 5), (3, 4, 3, 3), {"padding": 1}),
    "2d-one-by-one": (F.conv2d, (2, 4, 3, 3), (5, 4, 1, 1), {}),
    "3d": (F.conv3d, (2, 2, 4, 3, 4), (3, 2, 2, 3, 2), {"padding": 1, "stride": (2, 1, 1)}),
    "1d-transposed": (F.conv_transpose1d, (3, 4, 6), (4, 3, 3), {"stride": 2}),
    "2d-transposed": (F.conv_transpose2d, (2, 4, 3, 4), (4, 2, 3, 3), {"stride": 2, "padding": 1, "groups": 2}),
    "2d-transposed-padded": (F.conv_transpose2d, (2, 4, 3, 4), (4, 3, 3, 3), {"stride": 2, "output_padding": 1}),
    "2d-transposed-dilated": (F.conv_transpose2d, (2, 4, 3, 4), (4, 3, 2, 2), {"dilation": (2, 1)}),
    "3d-transposed": (F.conv_transpose3d, (2, 2, 2, 3, 2), (2, 3, 2, 2, 2), {"stride": (1, 2, 1)}),
}


def tensors(*shapes):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]


def convolution(name):
    function, shape, weight, options = CONVOLUTIONS[name]
    outputs = weight[1] * options.get("groups", 1) if "transposed" in name else weight[0]
    leaves = tensors(shape, weight, (outputs,))
    return lambda x, w, b: function(x, w, b, **options), leaves


def normalization():
    mean, var = torch.randn(4, dtype=torch.float64), torch.rand(4, dtype=torch.float64) + 0.5
    return lambda x, w, b: F.batch_norm(x, mean, var, w, b), tensors((3, 4, 2, 3), (4,), (4,))


ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu-tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "gelu-module": torch.nn.GELU(),
    "silu-module": torch.nn.SiLU(),
}


def activation(name):
    """Of an affine map with the three leaves, so that the function's argument is a variable too."""
    return lambda x, w, b: ACTIVATIONS[name](3 * x * w + b), tensors((3, 4, 5), (4, 5), (5,))


BLIND = torch.ones(5, 6, dtype=torch.bool).tril()
BLIND[2] = False  # a query that sees nothing
ATTENTIONS = {
    "attention": (6, {}),
    "attention-causal": (5, {"is_causal": True, "scale": 0.3}),
    "attention-mask": (6, {"attn_mask": BLIND}),
    "attention-added-mask": (6, {"attn_mask": torch.linspace(-1, 1, 6, dtype=torch.float64).expand(2, 1, 1, 6)}),
}


def attend(name):
    length, options = ATTENTIONS[name]
    leaves = tensors((2, 3, 5, 4), (2, 3, length, 4), (2, 3, length, 4))
    return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **options), leaves


def layer_normalization(*shape):
    """Of values that lie far from zero, as those of a residual stream do."""
    return lambda x, w, b: F.layer_norm(2 * x + 10, (5,), w, b), tensors(shape, (5,), (5,))


def plain_layer_norm(x, w, b):
    """In plain operations: the third derivative of torch's own takes mean and variance for constants."""
    x = 2 * x + 10
    variance = x.var(-1, correction=0, keepdim=True)
    return (x - x.mean(-1, keepdim=True)) * torch.rsqrt(variance + 1e-5) * w + b


FUNCTIONS = {
    "layer-norm": lambda: layer_normalization(3, 4, 5),
    "layer-norm-of-one-row": lambda: layer_normalization(5),
    **{name: lambda name=name: attend(name) for name in ATTENTIONS},
    **{name: lambda name=name: convolution(name) for name in CONVOLUTIONS},
    "batch-norm": normalization,
    **{name: lambda name=name: activation(name) for name in ACTIVATIONS},
}


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """Two queries at a time, of sequences however short; torch's own in plain operations, which have derivatives."""
    monkeypatch.setattr(attention, "LARGE", 0)
    monkeypatch.setattr(attention, "SCORES", 2 * 6 * 6)
    with sdpa_kernel(SDPBackend.MATH):
        yield


def chain(function, leaves, orders):
    """The value and derivatives of a scalar of it, each along the same directions."""
    directions = [torch.cos(torch.arange(leaf.numel(), dtype=leaf.dtype)).view_as(leaf) for leaf in leaves]
    value = torch.sin(function(*leaves)).pow(2).sum()
    found = [value.detach()]
    for _ in range(orders):
        parts = grad(value, leaves, create_graph=True)
        found.append(torch.cat([part.detach().flatten() for part in parts]))
        value = sum((part * direction).sum() for part, direction in zip(parts, directions, strict=True))
    return found


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_equals_torch_to_the_third_derivative(name, channels_last):
    function, leaves = FUNCTIONS[name]()
    orders = 2 if name == "2d-transposed-padded" else 3  # of which torch's own third derivative fails
    expected = chain(plain_layer_norm if "layer-norm" in name else function, leaves, orders)
    mode = Rewriting(channels_last)

    def rewritten(*arguments):
        with mode:
            return function(*arguments)

    for mine, true in zip(chain(rewritten, leaves, orders), expected, strict=True):
        assert torch.allclose(mine, true, rtol=1e-11, atol=1e-11)
    assert mode.num_calls == 1


@pytest.mark.parametrize("name", FUNCTIONS)
def test_forward_mode_over_reverse(name):
    function, leaves = FUNCTIONS[name]()
    directions = [torch.sin(torch.arange(leaf.numel(), dtype=leaf.dtype)).view_as(leaf) for leaf in leaves]

    def product(rewriting):
        with fwAD.dual_level():
            duals = [fwAD.make_dual(x.detach().requires_grad_(), v) for x, v in zip(leaves, directions, strict=True)]
            if rewriting:
                with Rewriting():
                    output = function(*duals)
            else:
                output = function(*duals)
            parts = grad(torch.sin(output).pow(2).sum(), duals)
            return [fwAD.unpack_dual(part).tangent for part in parts]

    def reversed_twice():  # torch has no forward derivative of SiLU's first one
        parts = grad(torch.sin(function(*leaves)).pow(2).sum(), leaves, create_graph=True)
        return grad(parts, leaves, directions)

    expected = reversed_twice() if "silu" in name else product(False)
    for mine, true in zip(product(True), expected, strict=True):
        assert torch.allclose(mine, true, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", ["2d", "2d-depthwise", "2d-transposed", "batch-norm", "layer-norm", "gelu", "silu"])
def test_under_vmap(name):
    function, (x, w, b) = FUNCTIONS[name]()
    batch = torch.stack([x.detach(), 2 * x.detach()])

    def scalar(x):
        return torch.sin(function(x, w.detach(), b.detach())).sum()

    with Rewriting():
        found = vmap(hessian(scalar))(batch)
    expected = torch.stack([torch.func.hessian(scalar)(x) for x in batch])
    assert torch.allclose(found, expected, rtol=1e-11, atol=1e-11)


def test_parts_that_need_no_gradient():
    x, w, _ = tensors((2, 4, 6, 5), (6, 4, 3, 3), (6,))
    for frozen in (0, 1):
        leaves = [x, w]
        free = leaves[1 - frozen]
        inputs = [leaf.detach() if place == frozen else leaf for place, leaf in enumerate(leaves)]
        results = []
        for rewriting in (True, False):
            with Rewriting() if rewriting else torch.enable_grad():
                y = F.conv2d(*inputs)
            (first,) = grad(y.pow(3).sum(), free, create_graph=True)
            results.append(grad(first.pow(2).sum(), free)[0])
        assert torch.allclose(*results, rtol=1e-11)


def test_layer_norms_that_are_torchs_own():
    x = torch.randn(4, 3, 2, dtype=torch.float64)
    w = torch.randn(3, 2, dtype=torch.float64)
    for arguments in (((2,),), ((2,), w[0]), ((2,), None, w[0]), ((3, 2), w, w)):
        with Rewriting():
            found = F.layer_norm(x, *arguments)
        assert torch.equal(found, F.layer_norm(x, *arguments))


@pytest.mark.parametrize("free", range(3))
def test_layer_norm_where_the_rest_is_frozen(free):
    function, leaves = layer_normalization(3, 4, 5)
    inputs = [leaf if place == free else leaf.detach() for place, leaf in enumerate(leaves)]
    results = []
    for rewriting in (True, False):
        with Rewriting() if rewriting else torch.enable_grad():
            y = function(*inputs)
        (first,) = grad(y.pow(3).sum(), leaves[free], create_graph=True)
        results.append(grad(first.pow(2).sum(), leaves[free])[0])
    assert torch.allclose(*results, rtol=1e-10)


def test_training_mode_is_torchs_own():
    x = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    mean, var = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    with Rewriting():
        found = F.batch_norm(x, mean.clone(), var.clone(), training=True)
        plain = F.batch_norm(x, None, None, training=True)
    assert torch.equal(found, F.batch_norm(x, mean.clone(), var.clone(), training=True))
    assert torch.equal(plain, F.batch_norm(x, None, None, training=True))


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3, padding="same", padding_mode="circular")
        self.norm = torch.nn.BatchNorm2d(8)
        self.depthwise = torch.nn.Conv2d(8, 8, 3, groups=8, bias=False)
        self.head = torch.nn.Linear(8, 3)

    def forward(self, x):
        return self.head(torch.relu(self.depthwise(torch.relu(self.norm(self.conv(x))))).mean((2, 3)))


@pytest.mark.parametrize("form", ["rewritten", "channels-last"])
def test_float32_is_as_good_as_torchs_own(form):
    torch.manual_seed(0)
    model = Net()
    x, y = torch.randn(12, 3, 8, 8), torch.randint(0, 3, (12,))
    exact = Hessian(Problem(model, (x, y), dtype=torch.float64), form="torch", mode="fresh")
    v = torch.randn(exact.space.dim, dtype=torch.float64)
    true = exact @ v
    errors = {}
    for each in ("torch", form):
        found = Hessian(Problem(model, (x, y)), form=each, mode="kept") @ v.float()
        errors[each] = float((found - true).norm() / true.norm())
    assert errors[form] <= 5 * errors["torch"] + 1e-6


def test_the_module_is_left_alone():
    model = Net()
    before = [p.data_ptr() for p in model.parameters()]
    problem = Problem(model, (torch.randn(4, 3, 8, 8), torch.randint(0, 3, (4,))))
    assert problem.rewritable(range(2)) == {"torch": True, "rewritten": True, "channels-last": True}
    problem.in_form("channels-last").loss_sum(problem.parameters, problem.batch(range(4)))
    assert [p.data_ptr() for p in model.parameters()] == before
    assert model.conv.weight.is_contiguous() and problem.form == "torch"
    out = functional_call(model, problem.parameters, (torch.randn(1, 3, 8, 8),))
    assert type(out.grad_fn).__name__ == "AddmmBackward0"
