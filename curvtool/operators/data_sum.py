"""The loop over batches, written once: add up a map's sums, reduce once, divide by the global weight."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch

from curvtool.linalg.space import VectorSpace
from curvtool.operators.products import Parts


def pieces_of(rows: range, size: int) -> list[range]:
    """Consecutive pieces of so many samples, the last one shorter."""
    return [range(start, min(start + size, rows.stop)) for start in range(rows.start, rows.stop, size)]


def even_pieces_of(rows: range, size: int) -> list[range]:
    """Consecutive pieces of at most so many samples, as few and as alike as can be."""
    return pieces_of(rows, -(-len(rows) // -(-len(rows) // size)))


def sum_of(pieces: Iterable[Parts]) -> Parts:
    """The sums of parts, one place after the other; None stands for zeros."""
    total: list[torch.Tensor | None] | None = None
    for parts in pieces:
        if total is None:
            total = list(parts)
            continue
        for place, part in enumerate(parts):
            held = total[place]
            total[place] = part if held is None else held if part is None else held + part
    assert total is not None, "a batch has a sample"
    return total


def mean_over_batches(
    space: VectorSpace,
    shapes: Sequence[torch.Size],
    batches: Sequence[range],
    batch_sum: Callable[[range], Parts],
    total_weight: float,
    record: Callable[[int, torch.Tensor], None] | None = None,
    lead: tuple[int, ...] = (),
) -> torch.Tensor:
    """(1/W) sum_b f(b) over all ranks' batches as one flat vector, or several, (*lead, P): this rank's part of them.

    Args:
        space: the space of the result.
        shapes: the parameters' shapes, in the order of the parts.
        batches: this rank's ranges of samples.
        batch_sum: the map's sum over a batch, a part for each parameter (None: zeros).
        total_weight: W.
        record: hears the index of each batch and this rank's running sum up to it, all P coordinates.
        lead: dimensions before those of the shapes.
    """
    total: torch.Tensor | None = None
    for index, rows in enumerate(batches):
        parts = batch_sum(rows)
        if total is None:  # one pass over memory less than adding to zeros
            total = _flattened(space, shapes, parts, lead)
        else:
            views = split(total, shapes)
            pairs = [(view, part) for view, part in zip(views, parts, strict=True) if part is not None]
            if pairs:
                torch._foreach_add_([view for view, _ in pairs], [part for _, part in pairs])
            del views, pairs
        del parts  # before the next batch makes its own
        if record is not None:
            record(index, total)
    if total is None:  # a rank without a sample
        total = torch.zeros(*lead, space.dim, dtype=space.dtype, device=space.device)
    return space.reduced(total).div_(total_weight)


def _flattened(
    space: VectorSpace, shapes: Sequence[torch.Size], parts: Parts, lead: tuple[int, ...] = ()
) -> torch.Tensor:
    """The parts one after the other, shape (*lead, P); None stands for zeros."""
    zeros = partial(torch.zeros, dtype=space.dtype, device=space.device)
    return torch.cat(
        [
            zeros(*lead, shape.numel()) if part is None else part.reshape(*lead, -1)
            for part, shape in zip(parts, shapes, strict=True)
        ],
        dim=-1,
    )


def split(vector: torch.Tensor, shapes: Sequence[torch.Size]) -> list[torch.Tensor]:
    """Views of flat vectors (*lead, P) in the parameters' shapes, (*lead, *shape)."""
    parts = vector.split([shape.numel() for shape in shapes], dim=-1)
    return [part.view(*vector.shape[:-1], *shape) for part, shape in zip(parts, shapes, strict=True)]
