"""Ways to cut samples into batches, by which a loss that is a mean over its samples gives the same whole."""

from __future__ import annotations

import torch


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
