"""Samples that are exact copies of others, by a hash of every sample."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from curvtool.linalg.draws import mixed_words
from curvtool.problem.data import Data
from curvtool.problem.tree import named_tensors

_WORD = 8  # bytes


@dataclass(frozen=True)
class Copies:
    """Attributes:
    num_copies: samples that equal an earlier one.
    factor: by how much a standard error that supposes independent samples is too small if the copies are no samples of
        their own: sqrt(sum_g m_g^2 / N) for N samples, m_g of them alike.
    """

    num_copies: int
    factor: float


def copies(data: Data) -> Copies:
    """By 64 bits a sample, of inputs and targets together: a few MiB at a time, one pass."""
    total = torch.zeros(len(data), dtype=torch.int64)
    named = list(named_tensors({"inputs": data.inputs, "targets": data.targets}))
    for number, (_, tensor) in enumerate(named):
        for rows in data.pieces_of(tensor):
            piece = tensor[rows.start : rows.stop].detach().contiguous()
            raw = piece.reshape(len(piece), -1).view(torch.uint8)
            words = torch.nn.functional.pad(raw, (0, -raw.shape[1] % _WORD)).view(torch.int64)
            total[rows.start : rows.stop] += mixed_words(words, number).cpu()
    counts = total.unique(return_counts=True)[1].double()
    return Copies(len(data) - len(counts), float((counts.square().sum() / len(data)).sqrt()))
