"""Fitting: named weights go into a module, strictly, whatever prefix a wrapper has left on their names."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import nn

from curvtool.errors import LoadError
from curvtool.problem.tree import storage_id
from curvtool.words import counted

# names that torch.compile, FSDP, checkpointing and DeepSpeed put within those of a model
_WRAPPERS = re.compile(r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\.")
_PREFIXES = ("module.", "_orig_mod.", "model.")


def fit(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> str:
    """Loads the weights into the model, strictly, after stripping wrappers' prefixes where that makes the keys fit.

    Weights in float64 make the model one in float64.

    Returns:
        The prefix that was stripped, empty for none.

    Raises:
        LoadError: CT014, with what is missing, what is unexpected and which shapes differ.
    """
    own = model.state_dict()
    if "n_averaged" not in own:  # the counter of torch.optim.swa_utils.AveragedModel
        weights = {name: tensor for name, tensor in weights.items() if name != "n_averaged"}
    ways = [(len(set(own) ^ set(stripped)), prefix, stripped) for prefix, stripped in _strippings(weights)]
    least = min(gap for gap, _, _ in ways)
    _, prefix, stripped = next(way for way in ways if way[0] == least)
    alike = list(dict.fromkeys(way[1] for way in ways if way[0] == least))
    fitting = [way[1] for way in ways if way[0] == least and _shapes_fit(own, way[2])]
    if len(alike) > 1 and prefix and least < len(own) and fitting:
        raise LoadError(
            "CT014",
            "several parts of the checkpoint fit the model",
            expected="one set of weights",
            received=", ".join(f"{name}*" for name in alike[:6]),
            remedy="save the one that is meant: torch.save(model.state_dict(), path)",
        )
    # counters that older checkpoints lack, and that evaluation mode does not use
    missing = [name for name in own if name not in stripped and not name.endswith("num_batches_tracked")]
    # tied tensors are written once by safetensors' save_model; the one that is there fills them all
    there = {_place(own[name]) for name in own if name in stripped}
    missing = [name for name in missing if own[name].numel() == 0 or _place(own[name]) not in there]
    unexpected = [name for name in stripped if name not in own]
    shapes = [
        f"{name}: the model has {tuple(own[name].shape)}, the file {tuple(stripped[name].shape)}"
        for name in own
        if name in stripped and own[name].shape != stripped[name].shape
    ]
    if missing or unexpected or shapes:
        parts = []
        for label, names in (("missing", missing), ("unexpected", unexpected), ("shape", shapes)):
            if names:
                more = f" and {len(names) - 5} more" if len(names) > 5 else ""
                parts.append(f"{label} ({len(names)}): {', '.join(names[:5])}{more}")
        raise LoadError(
            "CT014",
            "the checkpoint's keys do not fit the model",
            expected=f"{counted(len(own), 'tensor')} as {next(iter(own), '')}",
            received="; ".join(parts),
            remedy="check --factory and its -K arguments (classes, width); curvtool inspect lists the file's keys",
        )
    require_finite(stripped)
    if any(tensor.dtype == torch.float64 for tensor in stripped.values()):
        model.double()  # not rounded to what the factory made
    model.load_state_dict(stripped, strict=False)
    return prefix


def _shapes_fit(own: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor]) -> bool:
    return all(own[name].shape == weights[name].shape for name in own if name in weights)


def require_finite(weights: Mapping[str, torch.Tensor]) -> None:
    """Refuses weights that are not plain finite numbers.

    Raises:
        LoadError: CT019 quantised or sparse ones, CT025 NaN or infinity.
    """
    other = [n for n, t in weights.items() if t.is_quantized or t.layout != torch.strided or t.is_meta]
    if other:
        tensor = weights[other[0]]
        kind = "quantised" if tensor.is_quantized else "without numbers (meta)" if tensor.is_meta else tensor.layout
        raise LoadError(
            "CT019",
            f"the weights {other[0]} are no plain numbers",
            expected="dense floating tensors, which can be differentiated by",
            received=f"{len(other)} that are {kind}",
            remedy="use the checkpoint before it was quantised, or dequantise it (dequantize(), to_dense())",
        )
    bad = [name for name, tensor in weights.items() if tensor.is_floating_point() and not bool(tensor.isfinite().all())]
    if bad:
        raise LoadError(
            "CT025",
            f"the weights hold NaN or infinity in {bad[0]}",
            expected="finite weights",
            received=f"NaN or infinity in {counted(len(bad), 'tensor')}",
            remedy="use an earlier checkpoint",
        )


def _place(tensor: torch.Tensor) -> tuple[object, ...]:
    """Where a tensor lies: the same for two views of the same numbers."""
    return storage_id(tensor), tensor.storage_offset(), tensor.shape, tensor.stride()


def _strippings(weights: Mapping[str, torch.Tensor]) -> list[tuple[str, dict[str, torch.Tensor]]]:
    """The weights as they are, without wrappers' names within theirs, and with each chain of prefixes taken off.

    What stands under a name of its own beside other things (the model in a Lightning module with metrics) is a way too.
    """
    current, prefix = dict(weights), ""
    ways = [(prefix, current)]
    cleaned = {_WRAPPERS.sub("", name): tensor for name, tensor in current.items()}
    if len(cleaned) == len(current) and cleaned.keys() != current.keys():
        current = cleaned
        ways.append((prefix, current))
    while True:
        found = next((p for p in _PREFIXES if current and all(name.startswith(p) for name in current)), None)
        if found is None:
            for first in dict.fromkeys(name.partition(".")[0] + "." for name in current if "." in name):
                inner = {name.removeprefix(first): t for name, t in current.items() if name.startswith(first)}
                ways.append((prefix + first, inner))
            return ways
        current, prefix = {name.removeprefix(found): t for name, t in current.items()}, prefix + found
        ways.append((prefix, current))
