"""Threads where other programs keep the cores busy."""

import os
import subprocess
import sys
import time

import pytest
import torch

from curvtool import threads
from curvtool.threads import Cores, fit


@pytest.fixture
def machine(monkeypatch):
    """A machine of four cores, some of them idle, that this process keeps one of busy for two seconds."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    clock = {"now": 0.0, "idle": 0.0}
    monkeypatch.setattr(time, "monotonic", lambda: clock["now"])
    monkeypatch.setattr(time, "process_time", lambda: clock["now"])
    monkeypatch.setattr(threads, "_idle", lambda: clock["idle"])
    given = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(torch, "set_num_threads", given.append)

    def cores(idle, seconds=2.0):
        watched = Cores()
        clock["now"] += seconds
        clock["idle"] += idle * seconds
        return watched, given

    return cores


@pytest.mark.parametrize(("idle", "wanted"), [(3.0, None), (2.7, None), (2.0, 3), (0.9, 2), (0.0, 1), (60.0, None)])
def test_no_more_threads_than_free_cores(idle, wanted, machine):
    """60: of a large machine, of which this process may use four."""
    watched, given = machine(idle)
    told = fit(1, watched)
    assert given == ([] if wanted is None else [wanted])
    assert told is None if wanted is None else f"{wanted} of 4 threads" in told and "OMP_NUM_THREADS" in told


def test_what_the_user_or_the_starter_names_stays(machine, monkeypatch):
    watched, given = machine(0.0)
    assert fit(2, watched) is None
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert fit(1, watched) is None and not given


def test_too_short_a_look_says_nothing(machine):
    watched, given = machine(0.0, seconds=0.1)
    assert fit(1, watched) is None and not given


def test_where_the_system_does_not_tell(machine, monkeypatch):
    monkeypatch.setattr(threads, "_idle", lambda: None)
    watched, given = machine(0.0)
    assert watched.free() is None and fit(1, watched) is None and not given


@pytest.mark.skipif(not threads._STAT.exists(), reason="no /proc/stat")
def test_a_busy_core_is_seen():
    watched = Cores()
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        time.sleep(1.0)
        busy.kill()
    everything = torch.multiprocessing.cpu_count()
    assert 0 <= watched.free() <= everything + 0.5


@pytest.mark.skipif(not threads._STAT.exists() or len(os.sched_getaffinity(0)) < 2, reason="one core, or no /proc/stat")
def test_a_command_on_a_busy_machine_says_so():
    clean = {name: value for name, value in os.environ.items() if name not in threads._NAMED}
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count())]
    try:
        watched = Cores()
        time.sleep(0.5)
        if watched.free() is None or watched.free() > 0.5:
            pytest.skip("this process may not keep all cores that are counted busy")
        words = [sys.executable, "-m", "curvtool", "trace", "demo:digits", "--num-samples", "20", "--rtol", "0.5"]
        found = subprocess.run(words, env=clean, capture_output=True, text=True, check=True)
    finally:
        for each in busy:
            each.kill()
            each.wait()
    assert "other programs keep cores busy: running by" in found.stderr, found.stderr
