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

from curvtool import device, threads
from curvtool.operators.memory import default_budget
from curvtool.operators.products import hvp
from curvtool.operators.sweep import check_operations
from curvtool.problem.checkpoints.torch_files import caution
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
    cards = device.accelerators()
    error = max(map(_product_error, [device.HOST, *cards]))
    problems = []
    if versions["torchvision"] is not None and not _imports("torchvision"):
        problems.append(
            "this torchvision was built for another torch, and breaks transformers: pip uninstall torchvision, or "
            "install the two together"
        )
    unseen = device.complaint()
    if unseen is not None:
        problems.append(unseen)
    most = torch.get_num_threads()
    wanted = threads.num_free(most)
    if wanted < most:
        problems.append(
            f"other programs keep cores busy: {most} threads wait for each other where {wanted} would not (a command "
            f"takes so many then; OMP_NUM_THREADS={wanted} for programs of your own)"
        )
    unsafe = caution()
    if unsafe is not None:
        problems.append(unsafe)
    if error > 1e-10:
        problems.append(f"a Hessian product is off by {error:.1e}: this torch is broken; install it again")
    swept = None
    if operations:
        swept = [report.OperationVerdict(**asdict(each)) for each in check_operations(observe=observe)]
    return report.Doctor(
        versions={"python": platform.python_version(), **versions},
        devices=["cpu", *map(device.name_of, cards)],
        memory={
            "cpu": report.DeviceMemory(budget=default_budget(device.HOST), allocator=_allocator_of_host()),
            **{
                str(card): report.DeviceMemory(budget=default_budget(card), allocator=device.allocator(card))
                for card in cards
            },
        },
        attention={name: is_on() for name, is_on, _, _ in device.ATTENTION},
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


def _product_error(place: torch.device) -> float:
    """Of H v for x1^2 + x1 x2 + 3 x2^2, whose Hessian is [[2, 1], [1, 6]]: (2.5, 4) for v = (1, 0.5)."""
    x, v = (torch.tensor(values, dtype=torch.float64, device=place) for values in ([1.0, 2.0], [1.0, 0.5]))
    found = hvp(lambda x: x[0] ** 2 + x[0] * x[1] + 3 * x[1] ** 2, x, v)
    true = torch.tensor([2.5, 4.0], dtype=torch.float64, device=place)
    return float((found - true).norm() / true.norm())
