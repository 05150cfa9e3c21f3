"""Which process of a group this one is, from the variables of torchrun or Slurm."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from curvtool.errors import UsageError

_FIRST_PORT, _NUM_PORTS = 15000, 20000


@dataclass(frozen=True)
class Place:
    """Attributes:
    rank: the process' number, from 0.
    size: the number of processes.
    local_rank: its number on its machine.
    address: where the processes find each other.
    port: likewise.
    starter: `torchrun` or `Slurm`.
    """

    rank: int
    size: int
    local_rank: int
    address: str
    port: int
    starter: str


def place_of(environment: Mapping[str, str] | None = None) -> Place | None:
    """This process' place; None where it was started alone.

    torchrun's `RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `MASTER_ADDR`, `MASTER_PORT`; else srun's `SLURM_PROCID`,
    `SLURM_NTASKS`, `SLURM_LOCALID`, and the first machine of its list for the address (`MASTER_ADDR` and `MASTER_PORT`
    where they are set). The batch script itself, outside of srun, is one process whatever the number of tasks.

    Raises:
        UsageError: CT003, variables that contradict each other.
    """
    environment = os.environ if environment is None else environment
    if "RANK" in environment and "WORLD_SIZE" in environment:
        place = Place(
            _number(environment, "RANK"),
            _number(environment, "WORLD_SIZE"),
            _number(environment, "LOCAL_RANK", 0),
            environment.get("MASTER_ADDR", "localhost"),
            _number(environment, "MASTER_PORT", 29500),
            "torchrun",
        )
    elif "SLURM_PROCID" in environment and not _is_batch_script(environment):
        tasks = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environment else "SLURM_NTASKS"
        place = Place(
            _number(environment, "SLURM_PROCID"),
            _number(environment, tasks, 1),
            _number(environment, "SLURM_LOCALID", 0),
            environment.get("MASTER_ADDR") or _first_machine(environment),
            _number(environment, "MASTER_PORT", _port_of_step(environment)),
            "Slurm",
        )
    elif _is_several(environment):
        given, missing = ("RANK", "WORLD_SIZE") if "RANK" in environment else ("WORLD_SIZE", "RANK")
        raise UsageError(
            "CT003",
            f"{given} is {environment[given]}, but there is no {missing}",
            expected="both, as torchrun sets them, or neither",
            received="one process that cannot know which of several it is",
            remedy=f"start it by torchrun or srun; or unset {given}",
        )
    else:
        return None
    if not 0 <= place.rank < place.size:
        raise UsageError(
            "CT003",
            "the variables of the process group contradict each other",
            expected="a rank from 0 to the number of processes less one",
            received=f"rank {place.rank} of {place.size}",
            remedy="start it by torchrun or srun; or unset RANK and WORLD_SIZE",
        )
    return place if place.size > 1 else None


def _is_several(environment: Mapping[str, str]) -> bool:
    """Whether one of torchrun's two variables says so without the other."""
    if "RANK" in environment:
        return environment["RANK"].strip() != "" and "WORLD_SIZE" not in environment
    return environment.get("WORLD_SIZE", "1").strip() not in {"", "0", "1"}


def _is_batch_script(environment: Mapping[str, str]) -> bool:
    return "SLURM_JOB_ID" in environment and not {"SLURM_STEP_ID", "SLURM_STEPID"} & set(environment)


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name)
    if text is None and default is not None:
        return default
    if text is None or not text.strip().isdigit():
        raise UsageError(
            "CT003",
            f"{name} is no number",
            expected="a number, as torchrun and srun set it",
            received=repr(text),
            remedy="start it by torchrun or srun",
        )
    return int(text)


def _port_of_step(environment: Mapping[str, str]) -> int:
    """The same on all ranks, and another for every step of every job."""
    job, step = (
        int(found.group()) if (found := re.match(r"\d+", environment.get(name, ""))) else 0
        for name in ("SLURM_JOB_ID", "SLURM_STEP_ID")
    )
    return _FIRST_PORT + (31 * job + step) % _NUM_PORTS


def _first_machine(environment: Mapping[str, str]) -> str:
    """The first of a list such as `gpu[007-009,12],cpu1` or `r[1-2]n[01-04]`."""
    listed = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST") or "localhost"
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", listed)  # commas within brackets part numbers, not names
    return re.sub(r"\[(\d+)[^\]]*\]", r"\1", first.group() if first else listed)
