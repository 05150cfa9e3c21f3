"""Files made to do harm: none runs, none takes memory or time, each ends in a typed error; and so do broken ones.

What fuzzing opens are real files with bytes changed, cut, doubled and spliced; the number of inputs is FUZZ_INPUTS.
"""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TYPED = {"CT010", "CT011", "CT012", "CT014", "CT015", "CT018", "CT019", "CT020", "CT021", "CT023", "CT025", "CT027"}
# whose weights are sound: another module's code may take them, and must not run theirs
OPENED = {
    "code_in_a_hugging_face_folder", "code_in_another_repository", "configuration_of_a_billion_layers",
    "architecture_that_is_a_path", "weights_that_do_not_belong", "quantised_folder",
}  # fmt: skip


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    words = [sys.executable, "-W", "ignore", str(HERE / "hostile.py"), str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, cwd=HERE, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert not list(folder.rglob("RAN"))
    return json.loads(done.stdout)


def test_every_file_ends_in_a_typed_error_and_nothing_runs(outcomes):
    assert len({row["case"] for row in outcomes}) >= 70
    for row in outcomes:
        allowed = row["outcome"] in TYPED or row["way"] == "inspect" or (row["way"] == "load" and row["case"] in OPENED)
        assert allowed and row["outcome"] in TYPED | {"opened"}, row
        assert not row["left"], row


def test_time_and_memory_are_bounded(outcomes):
    for row in outcomes:
        assert row["seconds"] < 30 and row["grown"] < 600, row  # MiB; importing a library is in both


def _fuzz(tmp_path, num_inputs, seed):
    """In a process of its own, which a crash in native code would end."""
    words = [sys.executable, "-W", "ignore", str(HERE / "fuzz.py"), str(tmp_path), str(num_inputs), str(seed)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=3000, cwd=HERE, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["inputs"] == num_inputs and found["crashes"] == [], found["crashes"][:3]
    assert found["typed"] > num_inputs // 10
    return found


def test_files_with_bytes_changed(tmp_path):
    _fuzz(tmp_path, 600, seed=0)


@pytest.mark.slow
def test_many_files_with_bytes_changed(tmp_path):
    print(_fuzz(tmp_path, int(os.environ.get("FUZZ_INPUTS", "20000")), seed=random.randrange(2**31)))
