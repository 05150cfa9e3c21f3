"""Where the numbers come from: versions, device, files, the working folder's commit, the host."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from curvtool.device import cuda_version, driver, name_of


def version() -> str:
    """The installed version of this tool."""
    try:
        return metadata.version("curvtool")
    except metadata.PackageNotFoundError:
        return "unknown"


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, device and host."""
    return {
        "tool_version": version(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": cuda_version(),
        "driver": driver(device),
        "device": str(device),
        "device_name": name_of(device),
        "num_threads": torch.get_num_threads(),
        "host": platform.node(),
        "slurm_job_id": os.environ.get("SLURM_JOB_ID"),
        **git_state(Path.cwd()),
    }


def git_state(folder: Path) -> dict[str, Any]:
    """Commit and dirty flag of the folder; None outside a repository or without git."""

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, timeout=5, check=False)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    changes = git("status", "--porcelain", "--untracked-files=no") if commit else None
    return {"git_commit": commit, "git_dirty": None if changes is None else bool(changes)}
