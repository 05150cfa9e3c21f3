"""Every test runs on one thread and leaves no variable behind."""

import atexit
import contextlib
import os
import shutil
import sys
import tempfile

import pytest
import standin
import torch
from reports import rows, whole  # noqa: F401, as fixtures

from curvtool.cli import app
from curvtool.session import cache

with contextlib.suppress(ImportError, AttributeError):  # before the first backward pass starts the engine's threads
    standin.setup()
torch.set_num_threads(1)  # the runner has as many workers as cores
os.environ.setdefault("OMP_NUM_THREADS", "1")  # nor do the programs that tests start have more
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="curvtool-tests-")  # of these; nothing of the user's is touched
atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    for name in list(os.environ):
        if name.startswith("CURVTOOL_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(cache, "folder", lambda: None)  # each test measures for itself


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if "cuda" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the program in this process: status, stdout, stderr."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["curvtool", *map(str, words)])
        status = app._run()
        out = capsys.readouterr()
        assert "Traceback" not in out.err
        return status, out.out, out.err

    return call
