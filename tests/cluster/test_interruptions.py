"""Runs that are killed at random moments: each goes on to the numbers of the uninterrupted one."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from test_ranks import same

RUNS = """\
[model]
checkpoint = "demo:digits"
[data]
num_samples = {num}
batch_size = 32
[compute]
dtype = "float64"
operations = "torch"
hvp = "fresh"
device = "cpu"
[[analysis]]
kind = "eigs"
k = 3
rtol = 1e-6
max_basis = 12
check = "full"
[[analysis]]
kind = "trace"
rtol = 0.03
max_passes = 30
[[analysis]]
kind = "density"
probes = 2
steps = 12
outliers = 4
[[analysis]]
kind = "diag"
rtol = 0.3
max_passes = 12
"""
ENDS = ["TERM", "USR1", "KILL", "cut off", "full disk"]


def started(folder, file):
    words = ["run", str(file), "--resume", "disk/state", "--json", "r.json", "--checkpoint-seconds", "0"]
    return subprocess.Popen(
        [sys.executable, "-m", "curvtool", *words],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def small_disk(folder):
    """A file system of 2 MiB of its own, where one may be mounted; else an ordinary folder."""
    disk = folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield disk if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", str(disk)], check=True)


def whole(folder):
    """No report and no state is there by half."""
    for path in [folder / "r.json", *(folder / "disk" / "state").glob("*/state.json")]:
        if path.exists():
            json.loads(path.read_text())


def interrupted(folder, file, how, saves, seconds, disk):
    """Whether the run was still going on after so many times that it saved its state, or after so many seconds."""
    filler = folder / "disk" / "filler"
    if how == "full disk" and disk is not None:
        with filler.open("wb", buffering=0) as file_:
            try:
                while file_.write(b"\0" * 65536):
                    pass
            except OSError:
                pass
    state, begin = folder / "disk" / "state", time.monotonic()
    first = max((int(path.name) for path in state.glob("[0-9]*")), default=0)
    process = started(folder, file)
    while process.poll() is None and time.monotonic() - begin < seconds:
        if max((int(path.name) for path in state.glob("[0-9]*")), default=0) >= first + saves:
            break
        time.sleep(0.01)
    was_running = process.poll() is None
    if was_running:
        killed = {"KILL": signal.SIGKILL, "cut off": signal.SIGKILL, "USR1": signal.SIGUSR1}
        process.send_signal(killed.get(how, signal.SIGTERM))
    said = process.communicate(timeout=120)[1]
    early = {-signal.SIGTERM, -signal.SIGUSR1}  # before Python came to the handlers
    ended = {0}  # between the last look and the signal
    assert process.returncode in ({-signal.SIGKILL, 75, 130} | early | ended if was_running else ended), said
    filler.unlink(missing_ok=True)
    if how == "cut off":
        files = sorted(state.glob("[0-9]*/*.safetensors"))
        if len(files) > 1:
            files[-1].write_bytes(files[-1].read_bytes()[: max(0, files[-1].stat().st_size - random.randint(1, 5000))])
    whole(folder)
    return process.returncode != 0


def tried(folder, num, moments, seed):
    """As many moments, five a run; how often each kind of end met a run that was going on."""
    file = folder / "runs.toml"
    file.write_text(RUNS.format(num=num))
    begin = time.monotonic()
    plain = subprocess.run(
        [sys.executable, "-m", "curvtool", "run", str(file), "--json", str(folder / "plain.json")],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, check=True, cwd=folder,
    )  # fmt: skip
    assert plain.returncode == 0
    seconds = time.monotonic() - begin
    wanted = json.loads((folder / "plain.json").read_text())["analyses"]
    rng, met, done = random.Random(seed), dict.fromkeys(ENDS, 0), 0
    with small_disk(folder) as disk:
        while done < moments:
            for _ in range(5):
                how = rng.choice(ENDS)
                done += 1
                saves = rng.choice((1, 2, 3, 5, 10, 20, 10**6))
                if interrupted(folder, file, how, saves, rng.uniform(0.2, 1.0) * seconds, disk):
                    met[how] += 1
            process = started(folder, file)
            said = process.communicate(timeout=300)[1]
            assert process.returncode == 0, said
            same(json.loads((folder / "r.json").read_text())["analyses"], wanted)
            subprocess.run(["rm", "-r", str(folder / "disk" / "state")], check=True)
    return met


@pytest.mark.slow
def test_fifty_random_moments(tmp_path):
    met = tried(Path(tmp_path), 300, 50, 0)
    print(met)
    assert sum(met.values()) >= 40 and all(met.values())


def test_a_few_random_moments(tmp_path):
    assert sum(tried(Path(tmp_path), 60, 3, 1).values()) >= 1
