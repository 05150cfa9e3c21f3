"""Batches whose own statistics normalise them (`--batch-norm batch`): whether they can be had, and which they are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from curvtool.errors import UsageError
from curvtool.problem.checkpoints.scripted import ScriptedModule
from curvtool.problem.losses.base import Loss
from curvtool.problem.losses.of_model import ModelLoss
from curvtool.problem.module import normalisers
from curvtool.words import counted

MODES = ("eval", "batch")


def refuse_per_sample(statistics_batch: int | None, what: str, remedy: str) -> None:
    """Raises CT003 for what is of single samples, where their batch's statistics tie them together."""
    if statistics_batch is not None:
        raise UsageError(
            "CT003",
            f"{what} of single samples, which --batch-norm batch ties together",
            expected="--batch-norm eval",
            received=f"statistics of batches of {counted(statistics_batch, 'sample')}",
            remedy=remedy,
        )


def check_statistics(
    batch_norm: str, batch_size: int | None, model: nn.Module, loss: Loss | None, num_samples: int, sharded: bool
) -> int | None:
    """The samples of a batch whose statistics are taken; None for `eval`.

    Raises:
        UsageError: CT001, no such mode; CT003, what batch statistics cannot be had with, or no batch size.
    """
    if batch_norm not in MODES:
        raise UsageError(
            "CT001", "no such mode of BatchNorm", expected=", ".join(MODES), received=repr(batch_norm),
            remedy="--batch-norm eval",
        )  # fmt: skip
    if batch_norm == "eval":
        return None
    obstacle = _obstacle(model, loss, sharded)
    if obstacle is not None:
        received, remedy = obstacle
        raise UsageError(
            "CT003",
            "batch statistics cannot be had here",
            expected="a plain module with BatchNorm, whole on every rank, and a loss by name or of one's own",
            received=received,
            remedy=remedy,
        )
    if batch_size is None or batch_size < 1:
        raise UsageError(
            "CT003",
            "batch statistics depend on the size of the batches, which is not given",
            expected="--batch-norm batch with --batch-size N",
            received="--batch-size auto" if batch_size is None else f"--batch-size {batch_size}",
            remedy="--batch-size with the batch size of training",
        )
    return min(batch_size, num_samples)


def _obstacle(model: nn.Module, loss: Loss | None, sharded: bool) -> tuple[str, str] | None:
    """What is in the way, and what to do."""
    if not normalisers(model):
        return "a model without BatchNorm", "leave --batch-norm out"
    if sharded:
        return "--shard-parameters", "leave it out: the ranks then share the batches"
    if isinstance(loss, ModelLoss):
        return "the loss that the model returns", "--loss cross-entropy, or another by name"
    kinds = (ScriptedModule, torch.jit.ScriptModule, torch.fx.GraphModule)
    if any(isinstance(module, kinds) for module in model.modules()):
        return "a TorchScript or exported program, whose mode is fixed", "the module itself, by --factory"
    return None


def whole_batches(rows: Sequence[int], size: int, num_samples: int) -> list[int]:
    """As many whole batches as the samples would fill, spread over those that they lie in; in the data's order."""
    touched = sorted({row // size for row in rows if row < num_samples})
    num = min(len(touched), -(-len(rows) // size))
    chosen = [touched[i * len(touched) // num] for i in range(num)]
    return [row for batch in chosen for row in range(batch * size, min((batch + 1) * size, num_samples))]
