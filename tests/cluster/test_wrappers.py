"""Operators around others on several ranks, against dense matrices."""

import json
import os
import sys
from pathlib import Path

import pytest
from cases import CASES
from ranks import Ranks

TESTS = Path(__file__).parent.parent
NAMES = [case.name for case in CASES]
FEW = NAMES[:1]


@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("names", [FEW, pytest.param(NAMES[1:], marks=pytest.mark.slow)], ids=["few", "others"])
def test_wrappers_on_ranks(size, names, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]))
    with Ranks(size, *names, command=(sys.executable, str(TESTS / "cluster" / "wrapped_on_ranks.py"))) as ranks:
        statuses, out, err = ranks.ended(timeout=500)
    assert statuses == [0] * size, err
    joined, largest, found = json.loads(out)
    assert joined == size and len(found) > 80 * len(names)
    wrong = {name: each for name, each in found.items() if each >= 1e-10}
    assert not wrong and largest < 1e-10, wrong
