"""Float64 that stays float64: casts to fewer digits inside a model are left out while it is computed in float64.

Language models compute norms, rotary embeddings and softmaxes in float32 whatever their own precision (as training in
half precision wants it). In float64 that rounds to seven digits, where `--dtype float64`, the noise floor and the
differences of gradients before a run mean all sixteen.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_LOW = (torch.float32, torch.float16, torch.bfloat16)
_NAMED = {torch.Tensor.float, torch.Tensor.half, torch.Tensor.bfloat16}


class Precisely(TorchFunctionMode):
    """Counts the casts that it leaves out.

    Attributes:
        num_casts: how many so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.num_casts = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        first = args[0] if args else None
        if not isinstance(first, torch.Tensor) or first.dtype != torch.float64:
            return func(*args, **kwargs)
        if func in _NAMED:
            self.num_casts += 1
            return first
        if kwargs.get("dtype") in _LOW:
            self.num_casts += 1
            kwargs = {**kwargs, "dtype": torch.float64}
        if func in (torch.Tensor.to, torch.Tensor.type, torch.Tensor.type_as):
            args = (first, *(self._kept(each) for each in args[1:]))
        return func(*args, **kwargs)

    def _kept(self, argument: Any) -> Any:
        """The target of a cast: a type, or a tensor whose type is taken."""
        if isinstance(argument, torch.Tensor) and argument.dtype in _LOW:
            self.num_casts += 1
            return argument.to(torch.float64)
        if argument in _LOW:
            self.num_casts += 1
            return torch.float64
        return argument
