"""Real models, opened as a user would: eigs, trace, density and jacnorm run, pass the preflight, agree with torch."""

import numpy as np
import pytest
import torch
from real_models import REAL
from scipy.sparse.linalg import LinearOperator, eigsh

from curvtool.config.resolve import resolve
from curvtool.session.run import run

MODELS = [pytest.param(each, id=each.name, marks=[pytest.mark.slow] if each.is_large else []) for each in REAL]


def _leading(parameters, loss, rtol):
    """The largest eigenvalue by SciPy's ARPACK, over double backward passes written out."""
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        gradient = torch.autograd.grad(loss(), parameters, create_graph=True, materialize_grads=True)
    curved = [(i, g) for i, g in enumerate(gradient) if g.requires_grad]
    graphs = [g for _, g in curved]
    sizes = [p.numel() for p in parameters]

    def product(v):
        parts = torch.from_numpy(np.asarray(v).ravel()).to(parameters[0].dtype).split(sizes)
        vector = [parts[i].view_as(g) for i, g in curved]
        found = torch.autograd.grad(graphs, parameters, vector, retain_graph=True, materialize_grads=True)
        return torch.cat([part.reshape(-1) for part in found]).double().numpy()

    hessian = LinearOperator((sum(sizes), sum(sizes)), matvec=product, dtype=np.float64)
    start = np.random.default_rng(0).normal(size=sum(sizes))
    return float(eigsh(hessian, k=1, which="LA", ncv=10, tol=rtol / 10, v0=start, return_eigenvectors=False)[0])


@pytest.mark.parametrize("model", MODELS)
def test_every_analysis_runs_and_the_leading_eigenvalue_agrees(model, tmp_path, monkeypatch):
    if model.missing:
        pytest.skip(f"{', '.join(model.missing)} not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "real_code", raising=False)
    flags, (parameters, loss) = model.make(tmp_path)
    flags = {"source": "data.npz", "dtype": model.dtype, **flags}
    rtol = 1e-6 if model.dtype == "float64" else 1e-3

    eigs = run(resolve("eigs", {**flags, "k": 1, "rtol": rtol})).report
    assert eigs.status == "complete"
    checks = eigs.problem.preflight
    assert checks.symmetry < (1e-10 if model.dtype == "float64" else 1e-4)
    assert checks.finite_difference is None or checks.finite_difference < 1e-2
    value = eigs.analyses[0].eigenvalues[0]
    assert value.value == pytest.approx(_leading(parameters, loss, rtol), rel=10 * rtol)

    trace = run(resolve("trace", {**flags, "rtol": 0.3, "max_passes": 20})).report
    low, high = trace.analyses[0].ci95
    assert low < trace.analyses[0].value < high
    density = run(resolve("density", {**flags, "probes": 2, "steps": 8, "outliers": 1})).report
    assert np.trapezoid(density.analyses[0].density, density.analyses[0].grid) == pytest.approx(1.0, abs=0.02)
    flags.pop("name", None)
    norms = run(resolve("jacnorm", {**flags, "top": 2})).report.analyses[0]
    assert 0 < norms.spectral.max <= norms.frobenius.max * (1 + 1e-6)
