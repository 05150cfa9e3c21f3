"""How many threads torch gets where other programs keep the cores busy.

torch's threads spin while they wait for each other. With more of them than there are free cores each step waits for one
that does not run: on two cores, one of them busy, a run was seen to take five times as long by two threads as by one.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

_STAT = Path("/proc/stat")
_NAMED = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_LEAST_SECONDS = 0.3  # of a look that tells


def _idle() -> float | None:
    """Seconds that all cores of the machine together have been idle, since it started."""
    try:
        words = _STAT.read_text().split("\n", 1)[0].split()
        return (int(words[4]) + int(words[5])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None


class Cores:
    """Watches how busy the machine's cores are from its making on, which is when the program starts."""

    def __init__(self) -> None:
        self.watch()

    def watch(self) -> None:
        """From now on."""
        self._idle, self._begin, self._own = _idle(), time.monotonic(), time.process_time()

    def free(self) -> float | None:
        """The cores that were idle meanwhile, or busy with this process; None where that is not known."""
        idle, seconds = _idle(), time.monotonic() - self._begin
        if idle is None or self._idle is None or seconds < _LEAST_SECONDS:
            return None
        return (idle - self._idle + time.process_time() - self._own) / seconds


STARTED = Cores()  # the program watches from its first line on: torch's import takes a second, in which cores show


def num_free(most: int, cores: Cores = STARTED) -> int:
    """So many threads as cores are free, from 1 to `most`; `most` where that is not known."""
    free = cores.free()
    return most if free is None else min(most, max(1, round(free)))


def fit(num_ranks: int, cores: Cores = STARTED) -> str | None:
    """Gives torch no more threads than cores are free, unless the user named a number; what it says of that.

    Args:
        num_ranks: of several ranks each has what its starter gave it.
        cores: watched since the program started.
    """
    import torch

    if num_ranks > 1 or any(os.environ.get(name) for name in _NAMED):
        return None
    most = torch.get_num_threads()
    wanted = num_free(most, cores)
    if wanted == most:
        return None
    torch.set_num_threads(wanted)
    return (
        f"other programs keep cores busy: running by {wanted} of {most} threads, as more would wait for each other "
        "(OMP_NUM_THREADS names another number)"
    )
