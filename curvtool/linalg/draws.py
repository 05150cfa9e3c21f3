"""Random numbers by counting: each is a function of the key, its row and its place, whatever the device.

So a row can be drawn alone or among others, and a piece of it on the rank that holds it, on any machine, and no
generator's state has to be carried along. The function is SplitMix64 (Steele, Lea, Flood 2014, OOPSLA), whose 64 bits
a step are 64 signs, or one uniform number.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch

from curvtool.device import draws_on

_GOLDEN = -7046029254386353131  # 0x9e3779b97f4a7c15, as a signed number
_FIRST, _SECOND = -4658895280553007687, -7723592293110705685  # 0xbf58476d1ce4e5b9, 0x94d049bb133111eb
_BITS, _BYTE = 64, 8
_FRACTION = 53  # bits of a float64's
_AT_ONCE = 2**18  # places of a row, each of which takes some 60 bytes on the way


def random_signs(
    key: int, rows: range, columns: Sequence[range], dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """Rows of independent signs +1 or -1, shape (len(rows), number of columns).

    Args:
        key: 64 random bits, as a signed number; another key gives other signs everywhere.
        rows: which rows.
        columns: which places of them, ranges one after the other.
        dtype: of the result.
        device: where they are drawn.
    """
    table = _signs_of_bytes(dtype, device)
    of_rows = _of_rows(key, rows, device)
    found = []
    for some in columns:
        first = some.start // _BITS
        words = _words(of_rows, range(first, -(-some.stop // _BITS)))
        drawn = table.index_select(0, words.view(torch.uint8).flatten().int()).view(len(rows), -1)
        found.append(drawn[:, some.start - first * _BITS : some.stop - first * _BITS])
    return found[0] if len(found) == 1 else torch.cat(found, dim=1)


def random_normals(
    key: int, rows: range, columns: Sequence[range], dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """Rows of independent standard normal numbers, likewise: the quantile function at a uniform number each.

    On devices without float64 they are drawn on the CPU.
    """
    place = draws_on(device)
    of_rows = _of_rows(key, rows, place)
    found = torch.empty(len(rows), sum(map(len, columns)), dtype=dtype, device=place)
    done = 0
    for some in columns:
        for start in range(some.start, some.stop, _AT_ONCE):
            piece = range(start, min(start + _AT_ONCE, some.stop))
            # the middle of one of 2^53 equal parts of (0, 1): never an end of it
            uniform = ((_words(of_rows, piece) >> (_BITS - _FRACTION)) & (2**_FRACTION - 1)).double()
            found[:, done : done + len(piece)] = torch.special.ndtri((uniform + 0.5) * 2.0**-_FRACTION)
            done += len(piece)
    return found.to(device)


def shuffled(num: int, key: int = 0) -> torch.Tensor:
    """The numbers below `num` in a random order, the same everywhere: by a word of 64 random bits each."""
    host = torch.device("cpu")
    return _words(_of_rows(key, range(1), host), range(num)).flatten().argsort(stable=True)


def mixed_words(words: torch.Tensor, key: int) -> torch.Tensor:
    """A hash of 64 bits for each row of whole numbers of 64 bits: (n, m) -> (n,). Equal rows alone have equal ones."""
    places = torch.arange(1, words.shape[1] + 1, device=words.device) * _GOLDEN
    return _mixed(_mixed(words + places + key * _FIRST).sum(dim=1) + key)


@lru_cache(maxsize=8)
def _signs_of_bytes(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """The eight signs of every byte, shape (256, 8)."""
    of_byte = torch.arange(2**_BYTE, device=device)[:, None] >> torch.arange(_BYTE, device=device)
    return ((of_byte & 1) * 2 - 1).to(dtype)


def _of_rows(key: int, rows: range, device: torch.device) -> torch.Tensor:
    """A state for each row, shape (len(rows), 1)."""
    numbers = torch.arange(rows.start + 1, rows.stop + 1, device=device)
    return _mixed(numbers * _GOLDEN + key)[:, None]


def _words(of_rows: torch.Tensor, places: range) -> torch.Tensor:
    """64 bits for each row and place, shape (rows, len(places))."""
    return _mixed(of_rows + torch.arange(places.start + 1, places.stop + 1, device=of_rows.device) * _GOLDEN)


def _mixed(z: torch.Tensor) -> torch.Tensor:
    """SplitMix64's output function; the shifts are those of unsigned numbers."""
    z = (z ^ (z >> 30).bitwise_and_(2**34 - 1)).mul_(_FIRST)
    z.bitwise_xor_((z >> 27).bitwise_and_(2**37 - 1)).mul_(_SECOND)
    return z.bitwise_xor_((z >> 31).bitwise_and_(2**33 - 1))
