"""What an installation can do, and whether its parts fit together."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import platform
from collections.abc import Callable
from dataclasses import asdict

import torch

from curvtool.operators.products import hvp
from curvtool.operators.sweep import check_operations
from curvtool.report import model as report

_PACKAGES = (
    "curvtool", "torch", "numpy", "safetensors", "transformers", "peft", "datasets", "timm", "pillow", "matplotlib",
    "PyHessian", "torchvision",
)  # fmt: skip


def examine(operations: bool = False, observe: Callable[[str, int, int], None] | None = None) -> report.Doctor:
    """Versions, devices, attention backends, and a product with a known answer.

    Args:
        operations: check torch's operations too.
        observe: hears of their progress.

    Raises:
        LoadError: CT018, operations were asked for and torch's test samples cannot be imported.
    """
    versions = {name: _version(name) for name in _PACKAGES}
    error = _product_error()
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


def _product_error() -> float:
    """Of H v for x1^2 + x1 x2 + 3 x2^2, whose Hessian is [[2, 1], [1, 6]]: (2.5, 4) for v = (1, 0.5)."""
    x, v = (torch.tensor(values, dtype=torch.float64) for values in ([1.0, 2.0], [1.0, 0.5]))
    found = hvp(lambda x: x[0] ** 2 + x[0] * x[1] + 3 * x[1] ** 2, x, v)
    true = torch.tensor([2.5, 4.0], dtype=torch.float64)
    return float((found - true).norm() / true.norm())
