"""How vectors are cut over the ranks: consecutive segments, each cut evenly."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Shards:
    """Every rank holds a piece of every segment, one after the other; the last ranks' pieces may be shorter, or empty.

    Attributes:
        sizes: the lengths of the segments, which follow one another.
        num_ranks: R.
    """

    sizes: tuple[int, ...]
    num_ranks: int

    @property
    def width(self) -> int:
        """The most coordinates that a rank holds."""
        return sum(self._piece(size) for size in self.sizes)

    def columns(self, rank: int) -> list[range]:
        """The coordinates that a rank holds, in their order."""
        found, start = [], 0
        for size in self.sizes:
            piece = self._piece(size)
            found.append(range(start + min(rank * piece, size), start + min((rank + 1) * piece, size)))
            start += size
        return found

    def padded(self, local: torch.Tensor, rank: int) -> torch.Tensor:
        """A rank's coordinates (..., local) with zeros to the width of all, (..., width)."""
        if local.shape[-1] == self.width:
            return local
        parts = []
        lengths = [len(columns) for columns in self.columns(rank)]
        for size, part in zip(self.sizes, local.split(lengths, dim=-1), strict=True):
            parts.append(torch.constant_pad_nd(part, (0, self._piece(size) - part.shape[-1])))
        return torch.cat(parts, dim=-1)

    def of_width(self, padded: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The segments' pieces of padded vectors (..., width)."""
        return padded.split([self._piece(size) for size in self.sizes], dim=-1)

    def joined(self, gathered: torch.Tensor) -> torch.Tensor:
        """The whole vectors (..., P) from the ranks' padded ones, (R, ..., width)."""
        parts = []
        for size, part in zip(self.sizes, self.of_width(gathered), strict=True):
            parts.append(part.movedim(0, -2).flatten(-2)[..., :size])
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def dealt(self, whole: torch.Tensor) -> torch.Tensor:
        """Whole vectors (..., P) as the ranks' padded pieces, (R, ..., width)."""
        parts = []
        for size, part in zip(self.sizes, whole.split(list(self.sizes), dim=-1), strict=True):
            piece = self._piece(size)
            lacking = piece * self.num_ranks - size
            full = torch.constant_pad_nd(part, (0, lacking)) if lacking else part  # which copies in any case
            parts.append(full.unflatten(-1, (self.num_ranks, piece)).movedim(-2, 0))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def _piece(self, size: int) -> int:
        return -(-size // self.num_ranks)
