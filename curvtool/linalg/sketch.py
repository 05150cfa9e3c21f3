"""Inner products of long vectors from short ones: a count sketch."""

from __future__ import annotations

from collections.abc import Callable

import torch

from curvtool.linalg.space import VectorSpace

SKETCH_SIZE = 64  # a squared norm is right to sqrt(2 / 64), 18 %; a sum over eight parts of the data to 6 %
_SEED = 31


class Sketch:
    """S x for random S with E[<S x, S y>] = <x, y>: coordinates with random signs, every `size`-th of them added up.

    Charikar, Chen, Farach-Colton 2002; the variance of |S x|^2 is at most 2 |x|^4 / size for spread out x. For vectors
    that one process has whole. It keeps a byte a coordinate.

    Args:
        space: of the vectors.
        size: the length of a sketch; P where that is smaller, and the sketch then keeps norms exactly.
    """

    def __init__(self, space: VectorSpace, size: int = SKETCH_SIZE) -> None:
        self.size = min(size, space.dim)
        self._signs = space.signs(_SEED)[0].to(torch.int8)
        self._whole = space.dim // self.size * self.size

    def __call__(self, vector: torch.Tensor) -> torch.Tensor:
        """S x: shape (size,) from (P,)."""
        signed = vector * self._signs
        found = signed[: self._whole].view(-1, self.size).sum(0)
        rest = signed[self._whole :]
        found[: len(rest)] += rest
        return found


class SketchOfImage(Sketch):
    """S L x: the sketch of what a linear map makes of a vector.

    Args:
        sketch: S.
        of: L.
    """

    def __init__(self, sketch: Sketch, of: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.size, self._sketch, self._of = sketch.size, sketch, of

    def __call__(self, vector: torch.Tensor) -> torch.Tensor:
        """S L x."""
        return self._sketch(self._of(vector))
