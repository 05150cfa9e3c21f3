"""Every format of checkpoint, made by the library that writes it: inspected, loaded, and its leading eigenvalue.

The table in the documentation is made from these tests: WRITE_DOCS=1 writes the rows anew.
"""

import importlib.util

import numpy as np
import pytest
import torch
from formats import FORMATS, data, documented, tokens
from torch.nn import functional as F

from curvtool.config.resolve import resolve
from curvtool.errors import CurvtoolError
from curvtool.session.run import run
from curvtool.setup.inspection import inspect_file


def _oracle(model, has_tokens) -> float:
    """The largest eigenvalue of the Hessian of the model that was saved, dense and in float64."""
    model = model.double().eval()
    parameters = [p for p in model.parameters() if p.requires_grad]
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        if has_tokens:
            ids = tokens()
            logits = model(input_ids=ids).logits
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        else:
            x, y = data()
            loss = F.cross_entropy(model(x.double()), y)
    gradient = torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True)
    rows = []
    for entry in torch.cat([g.reshape(-1) for g in gradient]):
        row = torch.autograd.grad(entry, parameters, retain_graph=True, materialize_grads=True)
        rows.append(torch.cat([part.reshape(-1) for part in row]))
    return float(torch.linalg.eigvalsh(torch.stack(rows))[-1])


def _has(package):
    return importlib.util.find_spec(package) is not None


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_inspected_loaded_and_measured(format, tmp_path, monkeypatch):
    missing = [package for package in format.needs if not _has(package)]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed")
    monkeypatch.chdir(tmp_path)
    path, model = format.make(tmp_path)
    if format.tokens:
        np.savez("data.npz", input_ids=tokens().numpy())
    else:
        np.savez("data.npz", inputs=data()[0].numpy(), targets=data()[1].numpy())

    found = inspect_file(path)
    assert found.format == format.kind
    assert found.num_params and found.next_command.startswith("curvtool eigs")
    if "peft" not in format.needs:
        names = set(dict(model.named_parameters()))
        tails = {t.name for t in found.tensors}
        assert all(any(tail.endswith(name) for tail in tails) for name in names)
    for flag in ("trust", "trust_remote_code"):
        if not format.flags.get(flag):
            continue
        assert f"--{flag.replace('_', '-')}" in found.next_command
        with pytest.raises(CurvtoolError) as caught:
            run(resolve("eigs", {"checkpoint": str(path), "source": "data.npz"}))
        assert caught.value.code == "CT015" and caught.value.exit_status == 3

    flags = {"checkpoint": str(path), "source": "data.npz", "dtype": "float64", "k": 1, "rtol": 1e-10, **format.flags}
    report = run(resolve("eigs", flags)).report
    assert report.status == "complete"
    assert report.problem.loss == ("causal-lm" if format.tokens else "cross-entropy")
    value = report.analyses[0].eigenvalues[0].value
    assert value == pytest.approx(_oracle(model, format.tokens), rel=1e-7)
    documented(f"| {format.name} | {format.opened_by} | yes | yes | yes |")
