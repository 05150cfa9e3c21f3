"""What an installation can do, and whether its parts fit together."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from curvtool.operators.memory import default_budget
from curvtool.operators.products import hvp
from curvtool.operators.sweep import check_operations
from curvtool.report import model as report

_PACKAGES = (
    "curvtool", "torch", "numpy", "safetensors", "transformers", "peft", "datasets", "timm", "pillow", "matplotlib",
    "uplot-python", "jinja2", "tensorboard", "mlflow-skinny", "wandb", "lightning", "PyHessian", "torchvision",
)  # fmt: skip


def examine(operations: bool = False, observe: Callable[[str, int, int], None] | None = None) -> report.Doctor:
    """Versions, devices with their memory and allocator, attention backends, and a product with a known answer.

    Args:
        operations: check torch's operations too.
        observe: hears of their progress.

    Raises:
        LoadError: CT018, operations were asked for and torch's test samples cannot be imported.
    """
    versions = {name: _version(name) for name in _PACKAGES}
    cards = [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    error = max(map(_product_error, [torch.device("cpu"), *cards]))
    problems = []
    if versions["torchvision"] is not None and not _imports("torchvision"):
        problems.append(
            "this torchvision was built for another torch, and breaks transformers: pip uninstall torchvision, or "
            "install the two together"
        )
    if torch.version.cuda is not None and not torch.cuda.is_available():
        problems.append("torch is built for CUDA, and sees no device: look at nvidia-smi and CUDA_VISIBLE_DEVICES")
    if error > 1e-10:
        problems.append(f"a Hessian product is off by {error:.1e}: this torch is broken; install it again")
    swept = None
    if operations:
        swept = [report.OperationVerdict(**asdict(each)) for each in check_operations(observe=observe)]
    return report.Doctor(
        versions={"python": platform.python_version(), **versions},
        devices=["cpu", *(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))],
        memory={
            "cpu": report.DeviceMemory(budget=default_budget(torch.device("cpu")), allocator=_allocator_of_host()),
            **{
                str(card): report.DeviceMemory(budget=default_budget(card), allocator=_allocator_of_cards())
                for card in cards
            },
        },
        attention={
            "math": torch.backends.cuda.math_sdp_enabled(),
            "flash": torch.backends.cuda.flash_sdp_enabled(),
            "memory-efficient": torch.backends.cuda.mem_efficient_sdp_enabled(),
            "cuDNN": torch.backends.cuda.cudnn_sdp_enabled(),
        },
        product_error=error,
        problems=problems,
        operations=swept,
    )


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _imports(name: str) -> bool:
    try:
        importlib.import_module(name)
    except Exception:  # a package fails in its own way
        return False
    return True


def _allocator_of_host() -> str:
    """malloc's maker, as the process was started: a preloaded one, or the C library's."""
    preloaded = [Path(name).name.partition(".so")[0] for name in re.split(r"[:\s]+", os.environ.get("LD_PRELOAD", ""))]
    known = [name for name in preloaded if any(word in name for word in ("malloc", "hoard"))]
    return known[0] if known else " ".join(part for part in platform.libc_ver() if part) or "the system's malloc"


def _allocator_of_cards() -> str:
    """torch's allocator of CUDA memory, and its options."""
    options = os.environ.get("PYTORCH_ALLOC_CONF") or os.environ.get("PYTORCH_CUDA_ALLOC_CONF")
    return f"{torch.cuda.get_allocator_backend()}, {options or 'default options'}"


def _product_error(device: torch.device) -> float:
    """Of H v for x1^2 + x1 x2 + 3 x2^2, whose Hessian is [[2, 1], [1, 6]]: (2.5, 4) for v = (1, 0.5)."""
    x, v = (torch.tensor(values, dtype=torch.float64, device=device) for values in ([1.0, 2.0], [1.0, 0.5]))
    found = hvp(lambda x: x[0] ** 2 + x[0] * x[1] + 3 * x[1] ** 2, x, v)
    true = torch.tensor([2.5, 4.0], dtype=torch.float64, device=device)
    return float((found - true).norm() / true.norm())
