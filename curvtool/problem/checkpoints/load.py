"""Loading: a module with a checkpoint's weights, whatever kind of checkpoint it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from curvtool.errors import LoadError
from curvtool.problem.checkpoints.adapters import load_adapter
from curvtool.problem.checkpoints.fit import fit
from curvtool.problem.checkpoints.hugging_face import load_hugging_face, load_timm_folder
from curvtool.problem.checkpoints.read import read
from curvtool.problem.checkpoints.scripted import load_exported, load_script, part_of
from curvtool.problem.checkpoints.sniff import FileKind, sniff
from curvtool.problem.checkpoints.state_dict import MODEL_KEYS, state_dict
from curvtool.problem.nearby_code import models_here
from curvtool.words import counted

_MOST_NAMED = 3  # models of the working folder, that are proposed


def load_model(
    path: Path,
    model: nn.Module | None,
    *,
    weights: str = "auto",
    trust: bool = False,
    trust_remote_code: bool = False,
    base_model: Path | None = None,
    submodule: str | None = None,
) -> tuple[nn.Module, str]:
    """The model with the checkpoint's weights, and a line that says how they were found.

    Args:
        path: the checkpoint, a file or a folder.
        model: the module made by the user's factory; None where the checkpoint brings its own.
        weights: which weights of a training checkpoint: `auto`, `model` or `ema`.
        trust: run what is in the file.
        trust_remote_code: run what is in a Hugging Face folder.
        base_model: the folder of an adapter's base model.
        submodule: the dotted name of the part that is taken, as `encoder`; all of it if None.

    Raises:
        LoadError: CT012, weights alone and no factory; CT013, no such part; and those of the kind's own reader.
    """
    kind = sniff(path)
    if kind.format == "torchscript" and model is None:
        return load_script(path, kind, trust, submodule), kind.description
    loaded, told = _load(path, kind, model, weights, trust, trust_remote_code, base_model)
    if submodule is None:
        return loaded, told
    return part_of(loaded, submodule), f"{told + ', ' if told else ''}its part {submodule}"


def _load(
    path: Path,
    kind: FileKind,
    model: nn.Module | None,
    weights: str,
    trust: bool,
    trust_remote_code: bool,
    base_model: Path | None,
) -> tuple[nn.Module, str]:
    if model is None:
        match kind.format:
            case "torch-export":
                return load_exported(path, kind, trust), kind.description
            case "huggingface":
                return load_hugging_face(path, trust=trust, trust_remote_code=trust_remote_code)
            case "timm":
                return load_timm_folder(path, trust)
            case "peft":
                return load_adapter(path, base_model, trust=trust, trust_remote_code=trust_remote_code)
    content = read(path, trust=trust)
    if isinstance(content, nn.Module):
        return content, "a whole pickled module"
    if isinstance(content, Mapping) and model is None:
        for key in MODEL_KEYS:
            if isinstance(content.get(key), nn.Module):
                return content[key], f"a whole pickled module under {key!r}"
    tensors, key = state_dict(content, weights)
    if model is None:
        known = models_here()
        found = " or ".join(f"--factory {name}" for name in known[-_MOST_NAMED:])
        raise LoadError(
            "CT012",
            f"{path} holds only weights, and the model's code is needed too",
            expected="--factory package.module:callable",
            received=f"{counted(len(tensors), 'tensor')}, the first {next(iter(tensors))}",
            remedy=f"{found or '--factory models:Net   (Net in ./models.py)'}; -K name=value for its arguments",
        )
    prefix = fit(model, tensors)
    return model, ", ".join(
        part for part in (f"under {key!r}" if key else "", f"prefix {prefix!r} stripped" if prefix else "") if part
    )
