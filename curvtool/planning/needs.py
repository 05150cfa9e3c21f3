"""How many products and vectors an analysis asks for: orders of magnitude, for plans."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Need:
    """What an analysis asks for.

    Attributes:
        products: a typical number of them.
        basis: vectors that it keeps, as many as take the room of uncompressed ones on the device.
        rows_met: kept vectors that a new one is made orthogonal to, on average.
        exchanged: whether its vectors are cut over the ranks; each group of samples has a probe of its own otherwise.
        notes: for the reader.
    """

    products: float
    basis: int
    rows_met: float = 0.0
    exchanged: bool = True
    notes: list[str] = field(default_factory=list)
