"""Files of torch.save, read without running what is in them.

A pickle can run any code when it is loaded, so torch files are read with `weights_only=True` alone; only `trust=True`,
which the user has to give, lifts that.
"""

from __future__ import annotations

import argparse
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from curvtool.errors import LoadError
from curvtool.problem.checkpoints.inert import tensors_in
from curvtool.problem.checkpoints.limits import require_stored, require_tree, too_large, torn
from curvtool.problem.checkpoints.sniff import commands_among, unsafe_globals
from curvtool.words import counted

_SAFE_SINCE = (2, 10)
_EXPANDED = 1024  # a tensor may stand for so many times the numbers that are stored, as an expanded one does


def caution(version: str = torch.__version__) -> str | None:
    """What to know of torch's reader of such files; None where nothing is known against it.

    Before 2.10 a file made for it could corrupt memory and run code in spite of `weights_only` (CVE-2026-24747).
    """
    numbers = [int(part) for part in version.split("+")[0].split(".")[:2] if part.isdigit()]
    if len(numbers) < 2 or tuple(numbers) >= _SAFE_SINCE:
        return None
    return (
        f"torch {version} can be made to run code by a .pt file (CVE-2026-24747, mended in 2.10): update torch, or "
        "read files of those alone whom you trust; safetensors files are safe"
    )


def load_torch_file(path: Path, is_zip: bool, trust: bool) -> Any:
    """The content on the CPU.

    Raises:
        LoadError: CT011 torn, or it claims more than it holds; CT015 objects that would run code, and no trust.
    """
    if is_zip and not trust:
        require_stored(path)
    try:
        with torch.serialization.safe_globals(_harmless_globals()):
            content = torch.load(path, map_location="cpu", weights_only=True)
        require_tree(path, content)
        _check_claims(path, content)
        return content
    except LoadError:
        raise
    except pickle.UnpicklingError as error:
        if "weights_only" not in str(error) and "Unsupported" not in str(error) and "GLOBAL" not in str(error):
            raise torn(path, error) from error
        if not trust:
            would_import = unsafe_globals(path)
            commands = commands_among(would_import)
            raise LoadError(
                "CT015",
                f"{path} holds more than tensors, and loading it would run code",
                expected="a state dict",
                received="objects of " + (", ".join(would_import[:6]) or "unknown classes"),
                remedy=f"do not load it: {commands[0]} has no place in a checkpoint"
                if commands
                else "save model.state_dict() instead; or, if you trust whoever made the file, add --trust",
            ) from None
    except Exception as error:  # a torn file fails in the unpickler in any way
        raise torn(path, error) from error
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # trusted code may fail in any way
        raise LoadError(
            "CT015",
            f"{path} cannot be unpickled, even trusted",
            expected="its classes to be importable",
            received=f"{type(error).__name__}: {error}",
            remedy="run from the folder that holds the module's code",
        ) from error


def _harmless_globals() -> list[Any]:
    """Plain data classes that training scripts leave in their checkpoints; none of them runs code when rebuilt."""
    scalar = np.float64(0).__reduce__()[0]
    dtypes = [type(np.dtype(name)) for name in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "bool")]
    return [argparse.Namespace, OrderedDict, scalar, np.dtype, *dtypes]


def _check_claims(path: Path, content: Any) -> None:
    """Refuses tensors that stand for far more numbers than are stored."""
    for name, tensor in tensors_in(content):
        if tensor.layout == torch.strided and not tensor.is_quantized:
            held = tensor.untyped_storage().nbytes() // max(tensor.element_size(), 1)
            if tensor.numel() > max(held, 1) * _EXPANDED:
                raise too_large(path, f"{name[:60]}: {counted(tensor.numel(), 'number')}, of which {held:,} are stored")
