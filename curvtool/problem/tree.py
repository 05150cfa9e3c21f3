"""Nested tensors: a tensor, or a dict, tuple or list of them, as models take and return."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

Tree = Any  # Tensor | Mapping[str, Tree] | tuple[Tree, ...] | list[Tree]


def map_tensors(function: Callable[[torch.Tensor], Any], tree: Tree) -> Tree:
    """Applies `function` to every tensor; lists become tuples, other leaves stay as they are."""
    if isinstance(tree, torch.Tensor):
        return function(tree)
    if isinstance(tree, Mapping):
        return {key: map_tensors(function, value) for key, value in tree.items()}
    if isinstance(tree, (tuple, list)):
        return tuple(map_tensors(function, value) for value in tree)
    return tree


def named_tensors(tree: Tree, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Each tensor with its path, as `("mask", tensor)` or `("0", tensor)`."""
    if isinstance(tree, torch.Tensor):
        yield name, tree
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from named_tensors(value, f"{name}.{key}" if name else str(key))
    elif isinstance(tree, (tuple, list)):
        for index, value in enumerate(tree):
            yield from named_tensors(value, f"{name}.{index}" if name else str(index))


def concatenate(trees: Sequence[Tree]) -> Tree:
    """Joins trees of one structure along the first dimension of every tensor."""
    first = trees[0]
    if isinstance(first, torch.Tensor):
        return first if len(trees) == 1 else torch.cat(list(trees))
    if isinstance(first, Mapping):
        return {key: concatenate([tree[key] for tree in trees]) for key in first}
    if isinstance(first, (tuple, list)):
        return tuple(concatenate([tree[i] for tree in trees]) for i in range(len(first)))
    return first


def num_bytes(tree: Tree) -> int:
    """Bytes of all tensors in the tree."""
    return sum(t.numel() * t.element_size() for _, t in named_tensors(tree))


def storage_id(tensor: torch.Tensor) -> int:
    """One number for all tensors that share a storage; also where a device gives no address of its data."""
    return int(tensor.untyped_storage()._cdata)
