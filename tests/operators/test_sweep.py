"""The sweep over torch's operations tells right from wrong and refused, and the page is what it found."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_preflight import DropsCurvature, LosesAll
from torch.nn import functional as F

from curvtool.operators.sweep import check_function

POINT = [torch.linspace(0.3, 1.7, 12, dtype=torch.float64).view(3, 4)]


@pytest.mark.parametrize(
    ("function", "reverse", "forward"),
    [
        (lambda p: p[0].tanh().pow(2).sum(), "right", "right"),
        (lambda p: torch.linalg.det(p[0][:, :3] + torch.eye(3)) ** 2, "right", "wrong"),
        (lambda p: DropsCurvature.apply(p[0]).pow(2).sum(), "wrong", "refused"),
        (lambda p: LosesAll.apply(p[0]).pow(2).sum(), "wrong", "refused"),
        (lambda p: torch.cdist(p[0], p[0]).sum(), "refused", "refused"),
        (lambda p: F.huber_loss(p[0], torch.full_like(p[0], 5.0), reduction="none").pow(2).sum(), "right", "refused"),
        (lambda p: (p[0] - POINT[0]).abs().sum() + p[0].pow(2).sum(), "not checked", "not checked"),  # a kink
    ],
)
def test_verdicts(function, reverse, forward):
    (one, _), (two, _) = check_function(function, POINT)
    assert (one, two) == (reverse, forward)


def test_doctor(run, monkeypatch):
    status, out, _ = run("doctor")
    assert status == 0 and f"torch {torch.__version__}" in out and "known answer" in out
    found = json.loads(run("doctor", "--json", "-")[1])
    assert found["product_error"] < 1e-10 and found["memory"]["cpu"]["budget"] > 2**20
    monkeypatch.setenv("LD_PRELOAD", "/usr/lib/libfoo.so /usr/lib/libjemalloc.so.2")
    assert "allocator libjemalloc" in run("doctor")[1]


@pytest.mark.slow
def test_the_page_is_what_the_sweep_finds():
    pytest.importorskip("expecttest")
    page = (Path(__file__).parents[2] / "curvtool" / "docs" / "operations.md").read_text()
    if f"torch {torch.__version__.partition('+')[0]} " not in page:
        pytest.skip("the page is of another torch")
    words = (
        "from curvtool.setup.doctor import examine; from curvtool.render.doctor import operations_page; "
        "print(operations_page(examine(operations=True)), end='')"
    )  # in a process of its own: the tests' stand-in device changes what torch's samples are
    found = subprocess.run([sys.executable, "-W", "ignore", "-c", words], capture_output=True, text=True, check=True)
    assert found.stdout == page
