"""Inputs as variables: the leaves that an input-output Jacobian is taken with respect to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from curvtool.errors import DerivativeError
from curvtool.problem.tree import Tree, map_tensors, named_tensors, storage_id


def call_with_leaves(model: nn.Module, forward: Callable[[Tree], Any], inputs: Tree) -> tuple[Any, list[torch.Tensor]]:
    """Calls `forward(inputs)`, and gives its output with the leaves to differentiate it by.

    The leaves are the floating inputs; where there are none, what the first embedding that reads them gives.

    Args:
        model: the module that `forward` runs, whose embeddings are watched.
        forward: the function of the inputs.
        inputs: a tensor, or a dict or tuple of tensors.

    Raises:
        DerivativeError: CT052, integer inputs that no embedding layer of the model reads.
    """
    leaves: list[torch.Tensor] = []

    def leaf(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_floating_point():
            return tensor
        leaves.append(tensor.detach().requires_grad_())
        return leaves[-1]

    inputs = map_tensors(leaf, inputs)
    if leaves:
        return forward(inputs), leaves
    ids = {storage_id(tensor) for _, tensor in named_tensors(inputs)}

    def at_embedding(module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor | None:
        read = args[0] if args else None
        if leaves or not isinstance(read, torch.Tensor) or storage_id(read) not in ids:
            return None
        leaves.append(output.detach().requires_grad_())
        return leaves[-1]

    hooks = [m.register_forward_hook(at_embedding) for m in model.modules() if isinstance(m, nn.Embedding)]
    try:
        output = forward(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    if not leaves:
        raise DerivativeError(
            "CT052",
            "the inputs are integers, and no embedding layer of the model reads them",
            expected="floating inputs, or tokens that an nn.Embedding looks up",
            received="integer inputs",
            remedy="give the inputs as floats",
        )
    return output, leaves
