"""Checkpoints: loads a file's weights safely.

A pickle can run any code when it is loaded, so torch files are read with `weights_only=True` alone; only `trust=True`,
which the user has to give, lifts that.
"""

from __future__ import annotations

import argparse
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from curvtool.errors import LoadError
from curvtool.problem.fit import fit
from curvtool.problem.sniff import commands_among, sniff, torn, unsafe_globals

_MODEL_KEYS = ("state_dict", "model_state_dict", "model", "module", "net", "network", "weights", "params")
_EMA_KEYS = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")


def read(path: Path, *, trust: bool = False) -> Any:
    """The file's content on the CPU: a mapping of tensors, a training dictionary, or (trusted) a whole module.

    Raises:
        LoadError: CT010 not there, CT011 not a checkpoint or torn, CT015 holds objects that would run code.
    """
    kind = sniff(path)
    if kind.format in {"torchscript", "torch-export"}:
        raise LoadError(
            "CT015",
            f"{path} is {kind.description}",
            expected="a state dict (torch.save or safetensors)",
            received=kind.format,
            remedy="save model.state_dict() of the original module and name its class with --factory",
        )
    if not kind.loadable:
        remedy = (
            "pass it as --data" if kind.format == "npz" or "NumPy" in kind.description else f"curvtool inspect {path}"
        )
        raise LoadError(
            "CT011",
            f"{path} is not a checkpoint: it is {kind.description}",
            expected="a torch.save file or safetensors",
            received=kind.format,
            remedy=remedy,
        )
    if kind.format == "safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, ValueError, KeyError) as error:
            raise torn(path, error) from error
    return _torch_load(path, trust)


def _torch_load(path: Path, trust: bool) -> Any:
    try:
        with torch.serialization.safe_globals(_harmless_globals()):
            return torch.load(path, map_location="cpu", weights_only=True)
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


def state_dict(content: Any, weights: str = "auto") -> tuple[dict[str, torch.Tensor], str]:
    """The tensors by name in what `read` returned, and the key they stood under (empty: at the top).

    Args:
        content: a state dict, or a training checkpoint that holds one.
        weights: `model`, `ema`, or `auto` (the model's own, EMA weights where there are no others).

    Raises:
        LoadError: CT011, no tensors by name are found; CT017, the weights asked for are not in it.
    """
    if not isinstance(content, Mapping):
        raise LoadError(
            "CT011",
            "the checkpoint holds no state dict",
            expected="tensors by name",
            received=type(content).__name__,
            remedy="torch.save(model.state_dict(), path)",
        )
    candidates = {"": content} if _is_state_dict(content) else {}
    ema: dict[str, Any] = {}
    for key in (*_MODEL_KEYS, *_EMA_KEYS):
        inner = content.get(key)
        if isinstance(inner, nn.Module):
            inner = inner.state_dict()
        if isinstance(inner, Mapping) and _is_state_dict(inner):
            (ema if key in _EMA_KEYS else candidates)[key] = inner
    wanted = {"model": candidates, "ema": ema, "auto": candidates or ema}[weights]
    if not wanted:
        held = ", ".join(str(k) for k in list(content)[:8]) or "nothing"
        if candidates or ema:
            raise LoadError(
                "CT017",
                f"the checkpoint has no {weights} weights",
                expected=f"--weights {weights}",
                received=f"weights under {', '.join(map(repr, candidates or ema))}",
                remedy=f"--weights {'ema' if ema else 'model'}",
            )
        raise LoadError(
            "CT011",
            "no weights are found in the checkpoint",
            expected=f"tensors by name, at the top or under {', '.join(_MODEL_KEYS[:4])}",
            received=f"a dictionary with {held}",
            remedy="torch.save(model.state_dict(), path)",
        )
    key, found = next(iter(wanted.items()))
    return {str(name): tensor for name, tensor in found.items() if isinstance(tensor, torch.Tensor)}, key


def _is_state_dict(content: Mapping[Any, Any]) -> bool:
    values = list(content.values())
    return (
        bool(values)
        and all(isinstance(key, str) for key in content)
        and (sum(isinstance(value, torch.Tensor) for value in values) * 2 > len(values))
    )


def load_model(
    path: Path, model: nn.Module | None, *, weights: str = "auto", trust: bool = False
) -> tuple[nn.Module, str]:
    """The model with the file's weights, and a line that says how they were found.

    Args:
        path: the checkpoint.
        model: the module made by the user's factory; None where the file must hold a whole module.

    Raises:
        LoadError: CT012, weights alone and no factory; and those of `read`, `state_dict` and `fit`.
    """
    content = read(path, trust=trust)
    if isinstance(content, nn.Module):
        return content, "a whole pickled module"
    if isinstance(content, Mapping) and model is None:
        for key in _MODEL_KEYS:
            if isinstance(content.get(key), nn.Module):
                return content[key], f"a whole pickled module under {key!r}"
    tensors, key = state_dict(content, weights)
    if model is None:
        raise LoadError(
            "CT012",
            f"{path} holds weights alone, not the model's code",
            expected="--factory package.module:callable",
            received=f"{len(tensors)} tensors, the first {next(iter(tensors))}",
            remedy=f"curvtool … {path} --factory models:Net   (Net in ./models.py; -K name=value)",
        )
    prefix = fit(model, tensors)
    return model, ", ".join(
        part for part in (f"under {key!r}" if key else "", f"prefix {prefix!r} stripped" if prefix else "") if part
    )
