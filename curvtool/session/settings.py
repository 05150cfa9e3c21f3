"""From the configuration to a device, a batch size and a budget."""

from __future__ import annotations

import torch

from curvtool.cluster.solo import Solo
from curvtool.config.schema import RunConfig
from curvtool.config.section import parse_bytes
from curvtool.errors import UsageError
from curvtool.operators.memory import default_budget


def pick_device(text: str, cluster: Solo) -> torch.device:
    """The device of a `--device` value; `auto` is CUDA where there is one. Of several, each rank takes one of its own.

    Raises:
        UsageError: CT004, no such device, or CUDA asked for and absent.
    """
    if text == "auto":
        text = "cuda" if torch.cuda.is_available() else "cpu"
    if text == "cuda" and cluster.size > 1 and torch.cuda.is_available():
        text = f"cuda:{cluster.local_rank % torch.cuda.device_count()}"
    try:
        device = torch.device(text)
        if device.type != "cuda":  # CUDA has answers of its own below
            torch.empty(0, device=device)
    except (RuntimeError, NotImplementedError, AssertionError, ModuleNotFoundError):
        raise UsageError(
            "CT004",
            f"no device {text!r} here",
            expected="auto, cpu, cuda or cuda:N",
            received=text,
            remedy="--device auto",
        ) from None
    if device.type == "cuda" and not torch.cuda.is_available():
        reason = "this torch is built without CUDA" if torch.version.cuda is None else "no CUDA device is visible"
        raise UsageError(
            "CT004",
            "CUDA was asked for and is not available",
            expected="a CUDA device",
            received=reason,
            remedy="--device cpu; or install a CUDA build of torch, and look at nvidia-smi and CUDA_VISIBLE_DEVICES",
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            "CT004",
            f"there is no device {text}",
            expected=f"cuda:0 to cuda:{torch.cuda.device_count() - 1}",
            received=text,
            remedy="--device cuda:0",
        )
    return device


def batch_size(config: RunConfig) -> int | None:
    """Samples a batch; None for auto."""
    return None if config.data.batch_size == "auto" else int(config.data.batch_size)


def memory_budget(config: RunConfig, device: torch.device, cluster: Solo) -> int:
    """Bytes for graphs and vectors together, the same on every rank; ranks on one machine share its memory."""
    text = config.compute.memory_budget
    if text is not None:
        return parse_bytes(text)
    sharing = cluster.local_size if device.type == "cpu" else 1
    return cluster.least(default_budget(device) // sharing)
