"""A stand-in accelerator: a device of Python's making on which a CPU tensor that slips in raises.

Every operation runs on the CPU tensor that a stand-in tensor holds. Plain CPU tensors of one or more dimensions may be
copied to it and from it, as with a real accelerator, and take part in nothing else.
"""

from __future__ import annotations

import functools

import torch
from torch.utils import _pytree as pytree

NAME = "standin"
_COPIES = ("aten::_to_copy", "aten::copy_", "aten::_copy_from")

traffic: list[tuple[str, int]] = []  # ("to host" | "to device" | "sync", numbers moved), in order


class StandIn(torch.Tensor):
    """A tensor on the stand-in device, and the CPU tensor that holds its numbers."""

    @staticmethod
    def __new__(cls, held: torch.Tensor):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=f"{NAME}:0",
        )

    def __init__(self, held: torch.Tensor):
        self.held = held

    def __repr__(self, *, tensor_contents=None):
        return f"StandIn({self.held})"

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return run(function, *args, **(kwargs or {}))


def run(function, *args, **kwargs):
    """Unwraps, refuses CPU tensors, runs on the CPU and wraps what comes out."""
    name = function._schema.name
    to_host = False
    device = kwargs.get("device")
    if device is not None:
        to_host = torch.device(device).type != NAME
        kwargs = {**kwargs, "device": torch.device("cpu")}
    if kwargs.get("pin_memory"):
        raise RuntimeError("pinned memory on the stand-in device")
    wrapped: dict[int, torch.Tensor] = {}

    def unwrap(value):
        if isinstance(value, StandIn):
            wrapped[id(value.held)] = value
            return value.held
        if isinstance(value, torch.Tensor) and value.dim() > 0 and name not in _COPIES:
            raise RuntimeError(f"a CPU tensor of shape {tuple(value.shape)} slipped into {name}")
        if isinstance(value, torch.device) and value.type == NAME:
            return torch.device("cpu")
        return value

    target_is_host = name == "aten::copy_" and not isinstance(args[0], StandIn)
    first = args[0] if args else None
    if name == "aten::_local_scalar_dense":
        traffic.append(("sync", 1))
    elif name in _COPIES and isinstance(first, torch.Tensor):
        if to_host or target_is_host:
            traffic.append(("to host", first.numel()))
        elif any(isinstance(a, torch.Tensor) and not isinstance(a, StandIn) for a in args):
            traffic.append(("to device", first.numel()))
    plain_args, plain_kwargs = pytree.tree_map(unwrap, (list(args), kwargs))
    out = function(*plain_args, **plain_kwargs)
    if to_host or target_is_host:
        return out

    def wrap(value):
        if not isinstance(value, torch.Tensor):
            return value
        return wrapped.get(id(value)) if id(value) in wrapped else StandIn(value)

    return pytree.tree_map(wrap, out)


@functools.cache
def setup() -> torch.device:
    """Registers the device once a process."""
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    _setup_privateuseone_for_python_backend(NAME)
    setup.library = torch.library.Library("_", "IMPL")  # kept: the registration ends with it
    setup.library.fallback(run, "PrivateUse1")
    return torch.device(NAME, 0)
