"""From the configuration to a batch size and a budget."""

from __future__ import annotations

import torch

from curvtool.cluster.solo import Solo
from curvtool.config.schema import RunConfig
from curvtool.config.section import parse_bytes
from curvtool.device import is_host
from curvtool.operators.memory import default_budget


def batch_size(config: RunConfig) -> int | None:
    """Samples a batch; None for auto."""
    return None if config.data.batch_size == "auto" else int(config.data.batch_size)


def memory_budget(config: RunConfig, device: torch.device, cluster: Solo) -> int:
    """Bytes for graphs and vectors together, the same on every rank; ranks on one machine share its memory."""
    text = config.compute.memory_budget
    if text is not None:
        return parse_bytes(text)
    sharing = cluster.local_size if is_host(device) else 1
    return cluster.least(default_budget(device) // sharing)
