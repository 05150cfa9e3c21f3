"""The host's memory: how much this process may still take."""

from __future__ import annotations

import resource
from pathlib import Path

_ASSUMED_FREE = 4 * 2**30  # where the system does not say


def free_host_bytes() -> int:
    """What the machine has available; less where the control group or the process (ulimit) is limited to less."""
    free = _ASSUMED_FREE
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
    for limit_file, usage_file in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            limit, usage = Path(limit_file).read_text().strip(), Path(usage_file).read_text().strip()
        except OSError:
            continue
        if limit.isdigit():
            free = min(free, max(int(limit) - int(usage), 0))
    left = left_to_the_process()
    return free if left is None else min(free, left)


def left_to_the_process() -> int | None:
    """What `ulimit -d` and `ulimit -v` leave, of which the first does not count files that are mapped; None: all."""
    left: list[int] = []
    for limit, field in ((resource.RLIMIT_DATA, "VmData:"), (resource.RLIMIT_AS, "VmSize:")):
        soft, _ = resource.getrlimit(limit)
        if soft == resource.RLIM_INFINITY:
            continue
        try:
            lines = Path("/proc/self/status").read_text().splitlines()
        except OSError:
            return None
        used = next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field)), 0)
        left.append(max(soft - used, 0))
    return min(left, default=None)
