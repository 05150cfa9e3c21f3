"""One process alone: every collective is the identity."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")


@dataclass
class Traffic:
    """Bytes of the tensors that went through the collectives so far, whole tensors counted once.

    Attributes:
        summed: added up over the ranks, every rank getting all of it.
        scattered: added up over the ranks, every rank getting its piece.
        gathered: put together from the ranks' pieces.
    """

    summed: int = 0
    scattered: int = 0
    gathered: int = 0


class Solo:
    """A group of one; what a group of several does likewise.

    Attributes:
        rank: this process' number, from 0.
        size: the number of processes.
        local_rank: this process' number on its machine.
        local_size: the number of processes on this machine.
        traffic: what went through the collectives.
    """

    rank = 0
    size = 1
    local_rank = 0
    local_size = 1

    def __init__(self) -> None:
        self.traffic = Traffic()

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.rank == 0

    def share(self, number: int) -> range:
        """Which of so many things are this rank's: consecutive ones, the ranks' numbers differing by one at most."""
        return range(self.rank * number // self.size, (self.rank + 1) * number // self.size)

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over the ranks, in place where there are several."""
        return tensor

    def scatter_sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """This rank's piece of the sum over the ranks: (size * n,) to (n,)."""
        return tensor

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """All ranks' tensors of one shape: (size, *shape)."""
        return tensor[None]

    def gather_objects(self, value: Any) -> list[Any]:
        """Every rank's value, in their order."""
        return [value]

    def first(self, do: Callable[[], Result]) -> Result:
        """What the first rank alone does, as reading or writing a file: its result (data that JSON can hold) on all.

        Raises:
            CurvtoolError: what came of it, on all ranks.
        """
        return do()

    def any(self, flag: bool) -> bool:
        """Whether it is so on one rank at least."""
        return flag

    def least(self, number: int) -> int:
        """The least of the ranks' numbers: where they must not differ, as what memory allows."""
        return number

    def most(self, number: int) -> int:
        """The largest of the ranks' numbers."""
        return -self.least(-number)

    def barrier(self) -> None:
        """Waits for all ranks."""

    def tell_failure(self, message: str) -> bool:
        """Lets the others know why this rank ends; whether none of them has said the same before."""
        return True

    def stop_watching(self) -> None:
        """Nobody else is looked after any more, as the process ends."""

    def close(self) -> None:
        """Takes leave of the others, all of which have come to their end."""
