"""Ranks of a group as processes of their own, started as torchrun or Slurm would."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path


def variables(starter, rank, size, port):
    """What the starter sets."""
    own = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    if starter == "torchrun":
        return own | {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
    return own | {
        "SLURM_PROCID": str(rank), "SLURM_NTASKS": str(size), "SLURM_LOCALID": str(rank), "SLURM_JOB_ID": "7",
        "SLURM_STEP_ID": "0",
    }  # fmt: skip


class Ranks:
    """`size` processes of `curvtool ...` (or of another command), ended with the `with` block."""

    def __init__(self, size, *words, starter="torchrun", command=(sys.executable, "-m", "curvtool"), folder=None):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("SLURM_", "MASTER_", "CURVTOOL_")) and name not in {"RANK", "WORLD_SIZE"}
        }
        self.processes = [
            subprocess.Popen(
                [*command, *map(str, words)],
                env=clean | variables(starter, rank, size, port),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=folder or Path.cwd(),
            )
            for rank in range(size)
        ]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.communicate()

    def send(self, number=signal.SIGUSR1, rank=None):
        for each in self.processes if rank is None else [self.processes[rank]]:
            if each.poll() is None:
                each.send_signal(number)

    def ended(self, timeout=150):
        """Exit statuses, what the first printed, and what each said."""
        said = [process.communicate(timeout=timeout) for process in self.processes]
        return [process.returncode for process in self.processes], said[0][0], [err for _, err in said]
