"""Random small networks, losses, batches and dtypes: every operator and estimator against the dense matrix."""

import os

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from curvtool import EmpiricalFisher, GaussNewton, Hessian, Problem, density, diagonal, eigenvalues, trace

ACTIVATIONS = {"tanh": torch.nn.Tanh, "softplus": torch.nn.Softplus, "relu": torch.nn.ReLU, "silu": torch.nn.SiLU}


@st.composite
def problems(draw):
    """A network with its dense Hessian by torch alone, over all data at once, in float64."""
    seed = draw(st.integers(0, 2**31))
    widths = draw(st.lists(st.integers(1, 4), min_size=0, max_size=2))
    features, outputs = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    num = draw(st.integers(1, 12))
    loss = draw(st.sampled_from(["cross-entropy", "mse", "bce-with-logits"]))
    reduction = draw(st.sampled_from(["mean", "sum"]))
    norm = draw(st.booleans())
    activation = ACTIVATIONS[draw(st.sampled_from(sorted(ACTIVATIONS)))]
    torch.manual_seed(seed)
    layers, size = [], features
    for width in widths:
        layers += [torch.nn.Linear(size, width), activation()]
        if norm:
            layers.append(torch.nn.LayerNorm(width))
        size = width
    model = torch.nn.Sequential(*layers, torch.nn.Linear(size, outputs, bias=draw(st.booleans()))).double().eval()
    x = torch.randn(num, features).double()
    y = torch.randint(0, outputs, (num,)) if loss == "cross-entropy" else torch.rand(num, outputs).double()
    function = {
        "cross-entropy": torch.nn.functional.cross_entropy,
        "mse": torch.nn.functional.mse_loss,
        "bce-with-logits": torch.nn.functional.binary_cross_entropy_with_logits,
    }[loss]
    parameters = dict(model.named_parameters())
    names, sizes = list(parameters), [p.shape for p in parameters.values()]

    def value(flat):
        parts = flat.split([s.numel() for s in sizes])
        given = {n: p.view(s) for n, p, s in zip(names, parts, sizes, strict=True)}
        return function(torch.func.functional_call(model, given, (x,)), y, reduction=reduction)

    flat = torch.cat([p.detach().reshape(-1) for p in parameters.values()])
    dense = torch.autograd.functional.hessian(value, flat)
    return (model, x, y, loss, reduction), (dense + dense.T) / 2


def made(parts, dtype):
    model, x, y, loss, reduction = parts
    return Problem(model, (x, y), loss, reduction=reduction, dtype=dtype)


EXAMPLES = int(os.environ.get("PROPERTY_EXAMPLES", "50"))  # a long sweep by hand: 1000
COMMON = settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=EXAMPLES, print_blob=False)


@COMMON
@given(problems(), st.integers(1, 13), st.integers(1, 13), st.sampled_from(["kept", "fresh", "auto"]), st.data())
def test_products_and_eigenvalues(pair, batch_size, group_size, mode, data):
    parts, dense = pair
    hessian = Hessian(made(parts, torch.float64), batch_size=batch_size, group_size=group_size, mode=mode)
    dim = hessian.space.dim
    scale = float(dense.abs().max())
    assert torch.allclose(hessian.materialize(), dense, rtol=1e-8, atol=1e-10 * max(scale, 1e-12))
    vector = torch.randn(dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    terms = sum(hessian.terms.product(t, vector) for t in range(hessian.terms.number))
    assert torch.allclose(terms, dense @ vector, rtol=1e-8, atol=1e-9 * max(scale, 1e-12))
    which = data.draw(st.sampled_from(["la", "sa", "lm", "be"] if dim > 1 else ["la", "sa", "lm"]))
    k = data.draw(st.integers(1, max(1, min(3, dim // 2))))
    true = torch.linalg.eigvalsh(dense).numpy()
    wanted = {
        "la": true[::-1][:k],
        "sa": true[:k],
        "lm": sorted(true, key=lambda v: -abs(v))[:k],
        "be": sorted([*true[:k], *true[::-1][:k]], reverse=True),
    }[which]
    result = eigenvalues(hessian, k, which=which, rtol=1e-9, check="full")
    found = result.values
    assert np.allclose(np.sort(np.abs(found)), np.sort(np.abs(wanted)), rtol=1e-6, atol=1e-8 * max(scale, 1e-12))
    gram = result.vectors @ result.vectors.T
    assert torch.allclose(gram, torch.eye(len(gram), dtype=gram.dtype), atol=1e-6)


@COMMON
@given(problems(), st.integers(1, 13), st.integers(0, 100))
def test_estimates_are_within_their_errors(pair, batch_size, seed):
    """Six standard errors: a disagreement is a mistake, not chance."""
    parts, dense = pair
    hessian = Hessian(made(parts, torch.float64), batch_size=batch_size, group_size=3)
    size = float(torch.linalg.eigvalsh(dense).abs().sum()) + 1e-300
    for method in ("auto", "exact"):
        result = trace(hessian, method=method, rtol=0.2, max_passes=200, seed=seed)
        # eight standard errors, or where few probes of a tiny matrix happened to be alike its whole size
        limit = 1e-8 * size if method == "exact" else max(8 * result.stderr, 2 * size)
        assert abs(result.value - float(dense.trace())) <= limit
    exact = diagonal(hessian, method="exact")
    assert torch.allclose(exact.diagonal, dense.diagonal(), rtol=1e-8, atol=1e-10 * size)
    seen = density(hessian, num_probes=2, num_steps=max(2, hessian.space.dim), method="probes", seed=seed)
    nodes = np.concatenate([q.nodes for q in seen.quadratures])
    true = torch.linalg.eigvalsh(dense).numpy()
    assert true[0] - 1e-8 * size <= nodes.min() and nodes.max() <= true[-1] + 1e-8 * size


@COMMON
@given(problems(), st.integers(1, 13))
def test_gauss_newton_and_its_diagonal(pair, batch_size):
    """J^T H_out J is the Hessian of the loss of the linearised model; positive semidefinite for these losses."""
    parts, dense = pair
    for matrix in (GaussNewton, EmpiricalFisher):
        operator = matrix(made(parts, torch.float64), batch_size=batch_size)
        whole = operator.materialize()
        scale = float(whole.abs().max()) + 1e-300
        assert torch.allclose(whole, whole.T, rtol=1e-8, atol=1e-10 * scale)
        assert float(torch.linalg.eigvalsh(whole)[0]) >= -1e-9 * scale * len(whole)
        assert torch.allclose(operator.exact_diagonal(), whole.diagonal(), rtol=1e-7, atol=1e-9 * scale)
    if all(isinstance(module, torch.nn.Linear) for module in parts[0]) and len(parts[0]) == 1:
        linear = GaussNewton(made(parts, torch.float64), batch_size=batch_size).materialize()
        assert torch.allclose(linear, dense, rtol=1e-8, atol=1e-10 * (float(dense.abs().max()) + 1e-300))


@COMMON
@given(problems(), st.integers(1, 13))
def test_float32(pair, batch_size):
    parts, dense = pair
    if any(isinstance(m, torch.nn.ReLU) for m in parts[0]):
        return  # rounding crosses kinks
    hessian = Hessian(made(parts, torch.float32), batch_size=batch_size)
    scale = float(torch.linalg.eigvalsh(dense).abs().max())
    top = eigenvalues(hessian, 1, which="lm", rtol=1e-5)
    assert abs(abs(top.values[0]) - scale) <= 1e-3 * scale + 1e-6
