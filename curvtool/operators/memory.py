"""How much memory there is to use, and how much a graph holds: measured, not guessed."""

from __future__ import annotations

import ctypes
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from curvtool.device import free_bytes
from curvtool.device import peak_bytes as device_peak_bytes
from curvtool.problem.host import free_host_bytes, left_to_the_process
from curvtool.problem.tree import storage_id

SHARE_OF_FREE, SHARE_OF_LIMIT = 0.5, 0.25
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # glibc's <malloc.h>


def default_budget(device: torch.device) -> int:
    """Bytes for kept graphs and vectors together: half of what is free on the device now.

    Where the process itself is limited (ulimit), a quarter: the first allocation beyond it fails.
    """
    free = free_bytes(device)
    if free is not None:
        return int(free * SHARE_OF_FREE)
    return int(free_host_bytes() * (SHARE_OF_FREE if left_to_the_process() is None else SHARE_OF_LIMIT))


def reuse_freed_pages() -> None:
    """Has the C library keep the memory that tensors on the host give back, for the next ones.

    By default it returns large blocks to the system, and every product pays for new pages: 17 to 25 % of its time was
    seen to go there. Process-wide, so for programs and not for libraries; without effect elsewhere than on glibc, and
    where the process is limited (ulimit): what is held in pieces counts there.
    """
    if left_to_the_process() is not None:
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def return_large_blocks() -> None:
    """Has the C library return every block of 64 KiB and more when it is freed, instead of keeping them in pieces.

    For parameters that are gathered and given up again: kept in pieces, their peak was seen to be three times as high.
    """
    try:
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 2**16)
    except (OSError, AttributeError, TypeError):
        return


def return_freed_pages() -> None:
    """Gives what the C library holds and nobody uses back to the system, as after a phase that took much memory."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError, TypeError):
        return


def peak_bytes(device: torch.device) -> int:
    """The most memory in use so far: by tensors on an accelerator, by the whole process on the host."""
    of_tensors = device_peak_bytes(device)
    if of_tensors is not None:
        return of_tensors
    status = Path("/proc/self/status")
    if status.exists():  # getrusage's figure outlives an exec: it may be that of the program that started this one
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@contextmanager
def saved_bytes() -> Iterator[Callable[[set[int]], int]]:
    """Counts the bytes of the storages that autograd saves inside, each storage once.

    Yields:
        A function that gives the count so far, but for the storages whose ids it is given.
    """
    seen: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        seen[storage_id(tensor)] = tensor.untyped_storage().nbytes()
        return tensor.detach()  # not the tensor itself: its graph would then hold itself

    def unpack(tensor: Any) -> Any:
        return tensor

    def count(left_out: set[int]) -> int:
        return sum(size for pointer, size in seen.items() if pointer not in left_out)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield count
