"""Every test runs on few threads and leaves no variable behind."""

import contextlib
import os

import pytest
import standin
import torch

with contextlib.suppress(ImportError, AttributeError):  # before the first backward pass starts the engine's threads
    standin.setup()
torch.set_num_threads(2)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    for name in list(os.environ):
        if name.startswith("CURVTOOL_"):
            monkeypatch.delenv(name)


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if "cuda" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))
