"""The one place that names a kind of device: the host, CUDA (as which ROCm answers), XPU, MPS, or another backend's.

What a backend offers is asked of it by name (`torch.get_device_module`); where it does not offer it, nothing is done,
or None is given. To support another one, this file changes and no other.
"""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from collections.abc import Iterator
from typing import Any

import torch
from torch.backends import cuda as _cuda

from curvtool.errors import UsageError

HOST = torch.device("cpu")
# what `auto` takes, in this order; MPS has no float64, in which inner products are summed, and is taken where asked for
_CHOSEN = ("cuda", "xpu")
_COLLECTIVES = {"cuda": "nccl", "xpu": "xccl"}
# NVIDIA's with float64 at half the rate of float32 or nearly: P100, V100, A100, H100 and H200, B200
_FULL_RATE = ((6, 0), (7, 0), (8, 0), (9, 0), (10, 0))
# attention by plain operations alone has a second derivative; these switches are the host's too
ATTENTION = (
    ("math", _cuda.math_sdp_enabled, _cuda.enable_math_sdp, True),
    ("flash", _cuda.flash_sdp_enabled, _cuda.enable_flash_sdp, False),
    ("memory-efficient", _cuda.mem_efficient_sdp_enabled, _cuda.enable_mem_efficient_sdp, False),
    ("cuDNN", _cuda.cudnn_sdp_enabled, _cuda.enable_cudnn_sdp, False),
)


def _backend(device: torch.device) -> Any | None:
    """Its module, as `torch.cuda`; None of the host, and where the backend has registered none."""
    if is_host(device):
        return None
    try:
        return torch.get_device_module(device)
    except RuntimeError:
        return None


def _ask(device: torch.device, name: str, *arguments: Any) -> Any | None:
    """What the backend's function of that name returns; None where it has none."""
    function = getattr(_backend(device), name, None)
    return None if function is None else function(*arguments)


def is_host(device: torch.device) -> bool:
    """Whether it is the CPU."""
    return device.type == "cpu"


def is_cuda(device: torch.device) -> bool:
    """Whether it is a CUDA device."""
    return device.type == "cuda"


def accelerators() -> list[torch.device]:
    """All devices of the kind that `auto` takes: none on a machine that has none."""
    for kind in _CHOSEN:
        backend = getattr(torch, kind)
        if backend.is_available():
            return [torch.device(kind, index) for index in range(backend.device_count())]
    return []


def pick(text: str, local_rank: int = 0, num_ranks: int = 1) -> torch.device:
    """The device of a `--device` value, with its number; `auto` is an accelerator where there is one.

    Args:
        text: `auto`, `cpu`, or a device as torch names it.
        local_rank: this process' number on its machine: of several ranks each takes a device of its own.
        num_ranks: how many processes there are.

    Raises:
        UsageError: CT004, no such device, or CUDA asked for and absent.
    """
    there = accelerators()
    if text == "auto":
        text = there[0].type if there else HOST.type
    if there and text == there[0].type:
        return there[local_rank % len(there)] if num_ranks > 1 else _with_number(torch.device(text))
    try:
        device = torch.device(text)
        if not is_cuda(device):  # CUDA has answers of its own below
            torch.empty(0, device=device)
    except (RuntimeError, NotImplementedError, AssertionError, ModuleNotFoundError):
        raise UsageError(
            "CT004",
            f"no device {text!r} here",
            expected="auto, cpu, cuda or cuda:N",
            received=text,
            remedy="--device auto",
        ) from None
    if is_cuda(device) and not torch.cuda.is_available():
        reason = "this torch is built without CUDA" if torch.version.cuda is None else "no CUDA device is visible"
        raise UsageError(
            "CT004",
            "CUDA was asked for and is not available",
            expected="a CUDA device",
            received=reason,
            remedy="--device cpu; or install a CUDA build of torch, and look at nvidia-smi and CUDA_VISIBLE_DEVICES",
        )
    if is_cuda(device) and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            "CT004",
            f"there is no device {text}",
            expected=f"cuda:0 to cuda:{torch.cuda.device_count() - 1}",
            received=text,
            remedy="--device cuda:0",
        )
    return _with_number(device)


def _with_number(device: torch.device) -> torch.device:
    """`cuda` as `cuda:0`: torch calls the two unequal, and a tensor's device has its number always."""
    number: int | None = device.index
    if is_host(device) or number is not None:
        return device
    return torch.device(device.type, _ask(device, "current_device") or 0)


def take(local_rank: int) -> str | None:
    """Takes this process' own accelerator: the kind and the backend of its collectives; None where there is none."""
    there = accelerators()
    if not there:
        return None
    own = there[local_rank % len(there)]
    _ask(own, "set_device", own)
    return f"{own.type}:{_COLLECTIVES[own.type]}"


# numbers


def sums_in(device: torch.device) -> torch.dtype:
    """float64, where the device has it: what inner products are summed in."""
    return torch.float32 if device.type == "mps" else torch.float64


def draws_on(device: torch.device) -> torch.device:
    """Where random numbers are made, which takes float64: there, or on the host."""
    return device if sums_in(device) == torch.float64 else HOST


def has_fast_double(device: torch.device) -> bool:
    """Whether a product in float64 costs about twice one in float32, as far as that is known."""
    if is_host(device):
        return True
    return is_cuda(device) and torch.cuda.get_device_capability(device) in _FULL_RATE


@contextlib.contextmanager
def precise(device: torch.device, tf32: bool, cudnn: bool) -> Iterator[None]:
    """Products without TensorFloat-32 unless it is allowed, and the same ones every time; as before afterwards.

    Args:
        device: of CUDA; others have no such settings.
        tf32: allow TensorFloat-32.
        cudnn: allow cuDNN, whose recurrent layers have no second derivative.
    """
    if not is_cuda(device):
        yield
        return
    before = _cuda.matmul.allow_tf32
    enabled = cudnn and torch.backends.cudnn.enabled
    with torch.backends.cudnn.flags(enabled=enabled, allow_tf32=tf32, deterministic=True):
        _cuda.matmul.allow_tf32 = tf32
        try:
            yield
        finally:
            _cuda.matmul.allow_tf32 = before


def has_own_attention(device: torch.device) -> bool:
    """Whether its attention may heed none of the switches of `ATTENTION`."""
    return not is_host(device) and not is_cuda(device)


@contextlib.contextmanager
def generators_kept() -> Iterator[None]:
    """torch's random numbers go on afterwards as if nothing had been drawn inside, on the host and the accelerators."""
    there = accelerators()
    kind = {"device_type": there[0].type} if there else {}
    with torch.random.fork_rng(devices=[device.index for device in there], **kind):
        yield


# time and memory


def synchronize(device: torch.device) -> None:
    """Waits until what was asked of the device is done."""
    _ask(device, "synchronize", *([device] if device.type in _CHOSEN else []))


def free_bytes(device: torch.device) -> int | None:
    """What is free on an accelerator; None of the host, and where the backend does not tell."""
    found = _ask(device, "mem_get_info", device)
    return None if found is None else int(found[0])


def peak_bytes(device: torch.device) -> int | None:
    """The most that tensors on an accelerator took since `reset_peak`; None likewise."""
    found = _ask(device, "max_memory_allocated", device)
    return None if found is None else int(found)


def reset_peak(device: torch.device) -> None:
    """Counts the peak anew."""
    _ask(device, "reset_peak_memory_stats", device)


def give_back(device: torch.device) -> None:
    """Gives blocks that torch keeps for later back to the device."""
    _ask(device, "empty_cache")


# what it is


def name_of(device: torch.device) -> str:
    """As its maker calls it."""
    found = _ask(device, "get_device_name", device)
    return str(found or platform.processor() or platform.machine())


def cuda_version() -> str | None:
    """The version of CUDA that this torch was built with."""
    return torch.version.cuda


def driver(device: torch.device) -> str | None:
    """The version of an NVIDIA device's driver."""
    if not is_cuda(device):
        return None
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip().splitlines()[0] if done.returncode == 0 and done.stdout.strip() else None


def allocator(device: torch.device) -> str:
    """torch's allocator of an accelerator's memory, and its options."""
    options = os.environ.get("PYTORCH_ALLOC_CONF") or os.environ.get("PYTORCH_CUDA_ALLOC_CONF")
    return f"{_ask(device, 'get_allocator_backend') or 'native'}, {options or 'default options'}"


def complaint() -> str | None:
    """What is wrong where torch was built for a device that it does not see."""
    if torch.version.cuda is not None and not torch.cuda.is_available():
        return "torch is built for CUDA, and sees no device: look at nvidia-smi and CUDA_VISIBLE_DEVICES"
    return None
