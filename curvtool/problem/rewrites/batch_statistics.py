"""Normalisation by the statistics of the batch at hand, in plain operations: y = (x - m) / sqrt(s + eps) * w + b.

m and s are mean and (biased) variance over all but the channel. torch's own operation in training mode has wrong
derivatives where forward mode takes part, and writes to the running statistics; plain operations have derivatives of
every order in every mode, and write to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from curvtool.errors import LoadError

_HALF = (torch.float16, torch.bfloat16)


def normalised(
    x: torch.Tensor, dims: Sequence[int], weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float
) -> torch.Tensor:
    """y of the shape and dtype of x, (N, C, …).

    Args:
        x: the inputs.
        dims: what mean and variance are taken over.
        weight: w, (C,); ones if None.
        bias: b, (C,); zeros if None.
        eps: added to the variance.

    Raises:
        LoadError: CT024, there is one value a channel, which has no variance.
    """
    if all(x.shape[dim] == 1 for dim in dims):
        raise LoadError(
            "CT024",
            "a batch of one sample has no statistics, and --batch-norm batch needs them of every batch",
            expected="two values a channel or more in every batch, the last one too",
            received=f"inputs of shape {tuple(x.shape)} at a normalisation",
            remedy="another --batch-size, or --num-samples one less, so that the last batch has two samples or more",
        )
    channels = (1, -1, *(1,) * (x.dim() - 2))
    values = x.float() if x.dtype in _HALF else x
    centred = values - values.mean(tuple(dims), keepdim=True)
    scale = torch.rsqrt(centred.square().mean(tuple(dims), keepdim=True) + eps)
    if weight is not None:
        scale = scale * weight.view(channels)
    found = centred * scale
    if bias is not None:
        found = found + bias.view(channels)
    return found.to(x.dtype) if x.dtype in _HALF else found


def _batch_norm(
    input: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> torch.Tensor:
    if not training:
        return functional.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    return normalised(input, (0, *range(2, input.dim())), weight, bias, eps)


def _instance_norm(
    input: torch.Tensor,
    running_mean: torch.Tensor | None = None,
    running_var: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> torch.Tensor:
    if not use_input_stats:
        return functional.instance_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    return normalised(input, range(2, input.dim()), weight, bias, eps)


def _torch_batch_norm(
    input: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool = True,
) -> torch.Tensor:
    return _batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)


def _torch_instance_norm(
    input: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool = True,
) -> torch.Tensor:
    return _instance_norm(input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)


_PLAIN: dict[Callable[..., Any], Callable[..., torch.Tensor]] = {
    functional.batch_norm: _batch_norm,
    functional.instance_norm: _instance_norm,
    torch.batch_norm: _torch_batch_norm,
    torch.instance_norm: _torch_instance_norm,
}


class BatchStatistics(TorchFunctionMode):
    """Calls `normalised` in place of torch's normalisations by the inputs' own statistics."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """`func`, or its plain operations."""
        return _PLAIN.get(func, func)(*args, **(kwargs or {}))
