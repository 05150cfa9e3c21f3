"""Samples in a fixed random order, cut into parts: clusters that were drawn at random, whatever order the data are in.

Data often lie sorted, by label or by time; consecutive samples are then no random sample of them, and their spread says
nothing about that of other data. The order is seeded by the number of samples alone, so that every device, batch size
and number of ranks tells the same parts apart.

A sample's place is its number in that order plus N: places from N to 2 N - 1 are taken by `Data.rows` like rows.
"""

from __future__ import annotations

from functools import lru_cache

import torch

from curvtool.linalg.draws import shuffled

LEAST_PARTS, MOST_PARTS = 8, 32
PART_SAMPLES = 512  # a part has no more of them, as long as there are fewer parts than may be
_FEW = 16  # samples: below, parts are batches
_ROUND = 64  # samples of a large part are a multiple of it, so that batches of one size make it up


def part_size(num_samples: int) -> int:
    """Samples of a part, the last one having fewer: 8 to 32 parts; 0 where the samples are too few to choose."""
    if num_samples < _FEW:
        return 0
    size = -(-num_samples // min(max(LEAST_PARTS, -(-num_samples // PART_SAMPLES)), MOST_PARTS))
    return size if size <= PART_SAMPLES else -(-size // _ROUND) * _ROUND


def parts_of(num_samples: int, size: int) -> list[range]:
    """The places of each part's samples."""
    ends = range(num_samples, 2 * num_samples, size)
    return [range(start, min(start + size, 2 * num_samples)) for start in ends]


@lru_cache(maxsize=8)
def rows_in_order(num_samples: int, device: torch.device) -> torch.Tensor:
    """The row at each place, less N: shape (N,). Within a part rows ascend, so that a file is read in one sweep."""
    order = shuffled(num_samples)
    size = part_size(num_samples) or num_samples
    return torch.cat([some.sort().values for some in order.split(size)]).to(device)
