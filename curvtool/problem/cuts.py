"""Ways to cut samples into batches, by which a loss that is a mean over its samples gives the same whole; and a few
samples that stand for all."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def spread(num_samples: int, wanted: int, seed: int = 0) -> Sequence[int]:
    """So many samples drawn over all of them: one from each of `wanted` equal stretches, in the data's order.

    The first samples may all be of one class, or padding. A draw within the stretches meets no period of the data.
    """
    if wanted >= num_samples:
        return range(num_samples)
    edges = torch.arange(wanted + 1) * num_samples // wanted
    widths = edges.diff()
    generator = torch.Generator().manual_seed(seed)
    places = (torch.rand(wanted, generator=generator, dtype=torch.float64) * widths).long()
    rows: list[int] = (edges[:-1] + places).tolist()
    return rows


def cuts(num_samples: int) -> list[list[list[int]]]:
    """All samples in small batches in three ways, two of them in a random order.

    Data that are sorted by their labels hide class weights from batches in their own order.
    """
    size = max(5, num_samples // 256)
    sizes = (size, size, -(-size * 3 // 5) if num_samples > 3 else 1)
    generator = torch.Generator().manual_seed(0)
    orders = [list(range(num_samples)), *(torch.randperm(num_samples, generator=generator).tolist() for _ in range(2))]
    return [
        [order[start : start + each] for start in range(0, num_samples, each)]
        for order, each in zip(orders, sizes, strict=True)
    ]
