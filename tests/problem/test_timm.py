"""timm's models by name and its folders; timm needs a torchvision that fits torch, so this runs where there is one."""

import json

import numpy as np
import pytest
import torch
from formats import documented
from safetensors.torch import save_file
from torch.nn import functional as F

from curvtool.config.resolve import resolve
from curvtool.errors import CurvtoolError
from curvtool.session.run import run
from curvtool.setup.inspection import inspect_file

try:
    import timm
except Exception:  # torchvision of another torch fails in its own way
    pytest.skip("timm cannot be imported", allow_module_level=True)

NAME = "test_resnet"  # timm's own tiny one


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    made = timm.create_model(NAME, num_classes=4).eval()
    g = torch.Generator().manual_seed(0)
    images, labels = torch.randn(6, 3, 32, 32, generator=g), torch.randint(0, 4, (6,), generator=g)
    np.savez("data.npz", inputs=images.numpy(), targets=labels.numpy())
    return made, images, labels


def _leading(made, images, labels):
    from scipy.sparse.linalg import LinearOperator, eigsh

    parameters = list(made.double().parameters())
    gradient = torch.autograd.grad(F.cross_entropy(made(images.double()), labels), parameters, create_graph=True)
    sizes = [p.numel() for p in parameters]

    def product(v):
        parts = torch.from_numpy(np.asarray(v).ravel()).split(sizes)
        vector = [part.view_as(p) for part, p in zip(parts, parameters, strict=True)]
        found = torch.autograd.grad(gradient, parameters, vector, retain_graph=True)
        return torch.cat([part.reshape(-1) for part in found]).numpy()

    hessian = LinearOperator((sum(sizes), sum(sizes)), matvec=product, dtype=np.float64)
    return float(eigsh(hessian, k=1, which="LA", tol=1e-8, return_eigenvectors=False)[0])


def _value(**flags):
    report = run(resolve("eigs", {"source": "data.npz", "dtype": "float64", "k": 1, "rtol": 1e-7, **flags})).report
    assert report.status == "complete"
    return report.analyses[0].eigenvalues[0].value


def test_a_model_by_its_name(model):
    made = model[0]
    torch.save(made.state_dict(), "net.pth")
    found = _value(checkpoint="net.pth", factory=f"timm:{NAME}", factory_args={"num_classes": 4})
    assert found == pytest.approx(_leading(*model), rel=1e-5)
    documented("| weights of a timm model | `--factory timm:NAME` (extra `timm`) | yes | yes | yes |")


def test_a_folder_as_timm_saves_it(model, tmp_path):
    made, _, _ = model
    place = tmp_path / "hub"
    place.mkdir()
    save_file(made.state_dict(), place / "model.safetensors")
    config = {"architecture": NAME, "num_classes": 4, "pretrained_cfg": {"input_size": [3, 32, 32]}}
    (place / "config.json").write_text(json.dumps(config))
    found = inspect_file(place)
    assert found.format == "timm" and found.num_params and "architecture: test_resnet" in found.notes
    assert _value(checkpoint=str(place)) == pytest.approx(_leading(*model), rel=1e-5)
    documented("| timm folder | itself (extra `timm`) | yes | yes | yes |")


def test_a_name_that_timm_does_not_know(model):
    torch.save(model[0].state_dict(), "net.pth")
    with pytest.raises(CurvtoolError) as caught:
        _value(checkpoint="net.pth", factory="timm:test_resnt")
    assert caught.value.code == "CT013" and "test_resnet" in caught.value.remedy
