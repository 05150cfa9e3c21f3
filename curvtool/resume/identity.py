"""What a run is: the settings and the files that its numbers depend on, by name."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from curvtool.cluster.solo import Solo
from curvtool.config.schema import RunConfig
from curvtool.errors import LoadError
from curvtool.problem.checkpoints.sniff import sha256
from curvtool.problem.factory import file_of, is_reference
from curvtool.problem.problem import Problem

_SAMPLED = 4096  # entries of a tensor
_NOT_NUMBERS = {  # paths and sizes
    "checkpoint", "batch_size", "batch_norm", "vectors", "out", "per_example", "directions", "lr",
}  # fmt: skip


def settings_of(configs: Sequence[RunConfig]) -> dict[str, str]:
    """All settings that the numbers depend on, but for how and where they are computed."""
    config, sections = configs[0], ("model", "data", "loss", "params")
    values = {f"{name}.{key}": value for name in sections for key, value in vars(getattr(config, name)).items()}
    values |= {
        f"compute.{name}": getattr(config.compute, name) for name in ("dtype", "seed", "tf32", "hvp", "operations")
    }
    for number, each in enumerate(configs):
        name = each.analysis.kind if len(configs) == 1 else f"{each.analysis.kind} {number + 1}"
        values |= {f"{name}.{key}": value for key, value in vars(each.analysis).items()}
    told = {name: str(value) for name, value in values.items() if name.partition(".")[2] not in _NOT_NUMBERS}
    if config.model.batch_norm == "batch":  # whose size is part of the quantity
        told |= {"model.batch_norm": "batch", "data.batch_size": config.data.batch_size}
    return {"analyses": ", ".join(each.analysis.kind for each in configs), **told}


def fingerprint(configs: Sequence[RunConfig], problem: Problem, checkpoint_sha256: str) -> dict[str, str]:
    """What a state, a row or the other ranks must agree in: the settings, and what was loaded by them.

    Of a user's own code that is the file that a setting names; what it imports is not followed.
    """
    return {
        "checkpoint": f"sha256 {checkpoint_sha256[:16]}",
        "data": f"sha256 {problem.data.fingerprint()[:16]}",
        "number of parameters": str(problem.num_trainable),
        **weights_of(problem),
        **files_of(configs),
        **settings_of(configs),
    }


def files_of(configs: Sequence[RunConfig]) -> dict[str, str]:
    """The contents of the other files that numbers depend on, by the setting that names them."""
    model, loss = configs[0].model, configs[0].loss
    files: dict[str, Path | None] = {}
    for flag, text in (("--factory", model.factory), ("--loss", loss.name)):
        if text is not None and is_reference(text):
            files[flag] = file_of(text)
    if model.base_model:
        files["--base-model"] = Path(model.base_model)
    for flag, options in (("-L", loss.options), ("-K", model.factory_args)):
        files |= {f"{flag} {name}": Path(text) for name, text in options.items() if _is_file(text)}
    for config in configs:
        for name in ("start", "deflate"):
            given = getattr(config.analysis, name, None)
            if given:
                files[f"--{name}"] = Path(given)
    return {
        f"the file of {flag}": f"{path.name}, sha256 {sha256(path)[:16]}"
        for flag, path in files.items()
        if path is not None and path.exists()
    }


def _is_file(text: object) -> bool:
    """Whether an option's value names a file that is there."""
    try:
        return isinstance(text, str) and Path(text).is_file()
    except (OSError, ValueError):
        return False


def weights_of(problem: Problem) -> dict[str, str]:
    """A digest of samples of every parameter and buffer: they may come from files that no setting names, as the base
    model of an adapter. None of a model that is cut among ranks."""
    if problem.sharded is not None:
        return {}
    digest = hashlib.sha256()
    for name, tensor in (*problem.model.named_parameters(), *problem.model.named_buffers()):
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}".encode())
        if tensor.layout != torch.strided or tensor.is_quantized:  # whose bytes cannot be had in one way
            continue
        flat = tensor.detach().reshape(-1)
        some = flat[:: max(1, len(flat) // _SAMPLED)].cpu().contiguous().resolve_conj()
        digest.update(some.view(torch.uint8).numpy().data)
    return {"weights": f"sha256 {digest.hexdigest()[:16]}"}


def check_alike(cluster: Solo, facts: Mapping[str, str]) -> None:
    """Whether all ranks have the same: commands, files staged on every machine, or data drawn at random may differ.

    Raises:
        LoadError: CT065, they do not.
    """
    if cluster.size == 1:
        return
    everyone = cluster.gather_objects(dict(facts))
    for rank, others in enumerate(everyone):
        different = [name for name in {**everyone[0], **others} if everyone[0].get(name) != others.get(name)]
        if different:
            name = different[0]
            raise LoadError(
                "CT065",
                f"rank {rank} has another {name} than rank 0",
                expected=f"{name} = {everyone[0].get(name, 'none')}",
                received=f"{name} = {others.get(name, 'none')}",
                remedy="the same command and the same files on every rank; data drawn at random need a seed",
            )
