"""Rounding made visible without a wider format: every operation's result is moved by a unit of rounding, at random.

Two runs of the same computation then differ by what rounding does to it (Monte Carlo arithmetic: Parker 1997, report
CSD-970002, UCLA; Vignes 2004, Numer. Algorithms 37). It is how far float64 itself can be trusted: where 1 - p is formed
of a probability that rounds to 1, two runs do not agree in a single digit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# what moves or chooses numbers, or changes signs, and rounds none
_EXACT = frozenset({
    "_to_copy", "abs", "alias", "amax", "amin", "arange", "cat", "clamp", "clamp_max", "clamp_min", "clone",
    "constant_pad_nd", "copy", "detach", "embedding", "empty", "empty_like", "empty_strided", "eye", "fill", "flip",
    "full", "full_like", "gather", "index", "index_select", "lift_fresh", "masked_fill", "masked_select", "max",
    "max_pool2d_with_indices", "maximum", "min", "minimum", "neg", "new_empty", "new_empty_strided", "new_full",
    "new_ones", "new_zeros", "ones", "ones_like", "rand", "rand_like", "randn", "randn_like", "relu", "repeat",
    "roll", "scalar_tensor", "scatter", "select_backward", "select_scatter", "sign", "slice_backward",
    "slice_scatter", "sort", "stack", "threshold", "threshold_backward", "topk", "tril", "triu", "where", "zeros",
    "zeros_like",
})  # fmt: skip
_LEAST_FACTORS = 2**12


class RandomRounding(TorchDispatchMode):
    """While it is entered, each operation's floating results are times 1 + eps or 1 - eps, entry by entry.

    Results that are views, that are written in place or that no rounding made stay as they are. Backward passes, double
    ones too, count as the operations that they run.

    Args:
        seed: of the signs.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self._generator = torch.Generator().manual_seed(seed)
        self._factors: dict[tuple[torch.dtype, torch.device], torch.Tensor] = {}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Runs the operation, and moves what it returns."""
        found = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in _EXACT:
            return found
        returned = func._schema.returns
        if isinstance(found, torch.Tensor):
            if returned and returned[0].alias_info is None:
                self._move(found)
        elif isinstance(found, (tuple, list)) and len(returned) == len(found):
            for result, told in zip(found, returned, strict=True):
                if isinstance(result, torch.Tensor) and told.alias_info is None:
                    self._move(result)
        return found

    def _move(self, result: torch.Tensor) -> None:
        if (
            not result.is_floating_point()
            or not result.numel()
            or result.layout != torch.strided
            or result._is_zerotensor()
        ):
            return
        result.mul_(self._signed(result).view(result.shape))

    def _signed(self, result: torch.Tensor) -> torch.Tensor:
        """As many factors as it has entries, from another place each time."""
        size, key = result.numel(), (result.dtype, result.device)
        held = self._factors.get(key)
        if held is None or len(held) < 2 * size:
            signs = torch.randint(0, 2, (2 * max(size, _LEAST_FACTORS),), generator=self._generator) * 2 - 1
            held = (1 + torch.finfo(result.dtype).eps * signs.double()).to(result.device, result.dtype)
            self._factors[key] = held
        start = int(torch.randint(0, len(held) - size + 1, (1,), generator=self._generator))
        return held[start : start + size]
