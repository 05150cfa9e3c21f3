"""On several ranks too a run that is stopped again and again ends in the uninterrupted numbers."""

import json
import os
import sys
from pathlib import Path

import pytest
from ranks import Ranks
from resume.test_by_name import SEVERAL
from resume.test_resume import RUNS

TESTS = Path(__file__).parent.parent
FEW = ["trace, exactly", "density"]


@pytest.mark.parametrize(
    ("stops", "names"),
    [(4, FEW), *(pytest.param(50, [name], marks=pytest.mark.slow) for name in [*RUNS, *SEVERAL])],
    ids=lambda value: value if isinstance(value, int) else ", ".join(value),
)
def test_stopped_again_and_again_on_two_ranks(stops, names, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]))
    script = str(TESTS / "cluster" / "stopped_on_ranks.py")
    with Ranks(2, tmp_path, stops, *names, command=(sys.executable, script)) as ranks:
        statuses, out, err = ranks.ended(timeout=1500)
    assert statuses == [0, 0], err
    joined, found, _ = json.loads(out)
    assert joined == 2 and found == dict.fromkeys(names, stops)


def test_stopped_within_a_fresh_start_on_two_ranks(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]))
    script = str(TESTS / "cluster" / "stopped_fresh_start.py")
    with Ranks(2, tmp_path, command=(sys.executable, script)) as ranks:
        statuses, out, err = ranks.ended()
    assert statuses == [0, 0], err
    size, values, stops = json.loads(out)
    assert size == 2 and stops >= 2
    assert values == pytest.approx([4 / 60, 4 / 60], rel=1e-4)
