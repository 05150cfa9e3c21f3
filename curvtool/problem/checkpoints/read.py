"""Reading: the content of any checkpoint that holds weights alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from curvtool.errors import LoadError
from curvtool.problem.checkpoints.distributed import read_distributed
from curvtool.problem.checkpoints.limits import torn
from curvtool.problem.checkpoints.safetensors_header import read_header
from curvtool.problem.checkpoints.sharded import read_folder
from curvtool.problem.checkpoints.sniff import sniff
from curvtool.problem.checkpoints.torch_files import load_torch_file


def read(path: Path, *, trust: bool = False) -> Any:
    """The content on the CPU: a mapping of tensors, a training dictionary, or (trusted) a whole module.

    Raises:
        LoadError: CT010 not there, CT011 not a checkpoint or torn, CT015 holds objects that would run code.
    """
    kind = sniff(path)
    match kind.format:
        case "torch-zip" | "torch-legacy":
            return load_torch_file(path, kind.format == "torch-zip", trust)
        case "safetensors":
            return _read_safetensors(path)
        case "sharded" | "huggingface" | "timm":
            return read_folder(path, trust)
        case "distributed":
            return read_distributed(path)
    if kind.format in {"torchscript", "torch-export", "peft"}:
        raise LoadError(
            "CT015",
            f"{path} is {kind.description}",
            expected="weights alone, as a state dict",
            received=kind.format,
            remedy="leave out --factory and add --trust: it brings its own code"
            if kind.format != "peft"
            else "leave out --factory, and name the base model's folder: --base-model FOLDER",
        )
    raise LoadError(
        "CT011",
        f"{path} is not a checkpoint: it is {kind.description}",
        expected="a torch.save file, safetensors, TorchScript, torch.export or a folder of them",
        received=kind.format,
        remedy="pass it as --data"
        if kind.format == "npz" or "NumPy" in kind.description
        else f"save or copy it again, if it is meant to be one; curvtool inspect {path} shows what is in it",
    )


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    read_header(path)  # which bounds what it claims
    try:
        return load_file(path)
    except (SafetensorError, ValueError, KeyError, RuntimeError, AttributeError, OSError) as error:
        raise torn(path, error) from error
