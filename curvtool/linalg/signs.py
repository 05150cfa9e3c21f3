"""Random signs by counting: every bit is a function of the key, its row and its place, whatever the device.

So a row can be drawn alone or among others, on any machine, and no generator's state has to be carried along. The
function is SplitMix64 (Steele, Lea, Flood 2014, OOPSLA), whose 64 bits a step are 64 signs.
"""

from __future__ import annotations

import torch

_GOLDEN = -7046029254386353131  # 0x9e3779b97f4a7c15, as a signed number
_FIRST, _SECOND = -4658895280553007687, -7723592293110705685  # 0xbf58476d1ce4e5b9, 0x94d049bb133111eb
_BITS, _BYTE = 64, 8


def random_signs(key: int, rows: range, dim: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Rows of independent signs +1 or -1, shape (len(rows), dim).

    Args:
        key: 64 random bits, as a signed number; another key gives other signs everywhere.
        rows: which rows.
        dim: their length.
        dtype: of the result.
        device: where they are drawn.
    """
    numbers = torch.arange(rows.start + 1, rows.stop + 1, device=device)
    places = torch.arange(1, -(-dim // _BITS) + 1, device=device)
    words = _mixed(_mixed(numbers * _GOLDEN + key)[:, None] + places * _GOLDEN)
    of_byte = torch.arange(2**_BYTE, device=device)[:, None] >> torch.arange(_BYTE, device=device)
    table = ((of_byte & 1) * 2 - 1).to(dtype)
    drawn = table.index_select(0, words.view(torch.uint8).flatten().int())
    return drawn.view(len(rows), -1)[:, :dim]


def _mixed(z: torch.Tensor) -> torch.Tensor:
    """SplitMix64's output function; the shifts are those of unsigned numbers."""
    z = (z ^ ((z >> 30) & (2**34 - 1))) * _FIRST
    z = (z ^ ((z >> 27) & (2**37 - 1))) * _SECOND
    return z ^ ((z >> 31) & (2**33 - 1))
