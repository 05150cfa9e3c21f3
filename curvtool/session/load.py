"""From the configuration to a loaded problem."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from curvtool.cluster.solo import Solo
from curvtool.config.schema import RunConfig
from curvtool.config.section import numbers_of
from curvtool.device import pick
from curvtool.errors import LoadError, UsageError
from curvtool.estimators.observer import SILENT, Observer
from curvtool.problem import demo
from curvtool.problem.checkpoints import sniff
from curvtool.problem.checkpoints.load import load_model
from curvtool.problem.checkpoints.torch_files import caution
from curvtool.problem.data import Data
from curvtool.problem.factory import call, is_reference, make_module, resolve
from curvtool.problem.losses.base import Loss
from curvtool.problem.losses.guess import guess_by_class, guess_loss
from curvtool.problem.losses.named import get_loss, options_of
from curvtool.problem.losses.reduction import with_targets
from curvtool.problem.problem import Problem
from curvtool.problem.sources import paths
from curvtool.problem.sources.images import preprocessing_of
from curvtool.problem.sources.objects import from_object
from curvtool.problem.sources.reading import Reading
from curvtool.problem.validation import check_problem
from curvtool.resume.identity import check_alike, settings_of
from curvtool.session import settings


@dataclass(frozen=True)
class Loaded:
    """A problem and what its report says of where it came from."""

    problem: Problem
    model_name: str
    checkpoint_sha256: str
    notes: tuple[str, ...]


def load(
    config: RunConfig, observer: Observer = SILENT, cluster: Solo | None = None, data: Data | None = None
) -> Loaded:
    """Model, data and loss of a configuration, loaded and compared with each other.

    Args:
        config: what to load.
        observer: hears what was found.
        cluster: the ranks, which take a device each.
        data: the data, where they were read before.

    Raises:
        LoadError, UsageError: what is missing or does not fit, and what to type; CT065, ranks of
            other settings.
    """
    cluster = cluster or Solo()
    own = {"device", "rank_timeout"}
    how = {f"compute.{name}": str(value) for name, value in vars(config.compute).items() if name not in own}
    how["data.batch_size"] = config.data.batch_size
    check_alike(cluster, settings_of([config]) | how)  # before collectives that would fail without saying why
    device = pick(config.compute.device, cluster.local_rank, cluster.size)
    _tell_settings(config, observer, cluster)
    name = _checkpoint(config, observer)
    module, path = _module(config, name, observer)
    data = data if data is not None else _data(config, name, module)
    loss = None if not config.analysis.needs_loss else _loss(config, module, data, observer)
    data = with_targets(data, loss)
    for note in data.notes:
        observer.notice(f"data: {note}")
    problem = Problem(
        module,
        data,
        loss,
        reduction=config.loss.reduction,
        include=config.params.include,
        exclude=config.params.exclude,
        device=device,
        dtype=getattr(torch, config.compute.dtype) if config.compute.dtype else None,
        output_key=config.model.output_key,
        tf32=config.compute.tf32,
        cluster=cluster,
        shard_parameters=config.compute.shard_parameters,
        batch_norm=config.model.batch_norm,
        batch_size=settings.batch_size(config),
    )
    if problem.sharded is not None:
        problem.sharded.release_model()
    check_problem(problem)
    return Loaded(problem, name, sniff.sha256(path), data.notes)


def _tell_settings(config: RunConfig, observer: Observer, cluster: Solo) -> None:
    """What the user may not have meant, and what came from a file."""
    if config.compute.shard_parameters and cluster.size == 1:
        observer.notice("--shard-parameters: this process is alone, and holds all of them")
    for file in sorted({source for source in config.sources.values() if source.endswith(".toml")}):
        keys = [key for key, source in config.sources.items() if source == file]
        observer.notice(f"from {file}: {', '.join(keys)}")


def _checkpoint(config: RunConfig, observer: Observer) -> str:
    """The checkpoint's name; the embedded example's where none is given."""
    name, command = config.model.checkpoint, f"curvtool {config.analysis.kind}"
    if name is None:
        given = [flag for flag, value in (("--factory", config.model.factory), ("--data", config.data.source)) if value]
        if given:
            raise UsageError(
                "CT009",
                f"{' and '.join(given)} without a model",
                expected="a checkpoint before the flags",
                received="none",
                remedy=f"{command} model.pt {given[0]} …",
            )
        observer.notice(
            "no model given: running on the embedded example demo:digits (1,797 handwritten digits); "
            f"your own: {command} model.pt --factory module:Net --data data.npz"
        )
        return demo.NAME
    if name.startswith("demo:") and name != demo.NAME:
        raise UsageError("CT001", f"no example {name!r}", expected=demo.NAME, received=name, remedy=command)
    return name


def _module(config: RunConfig, name: str, observer: Observer) -> tuple[Any, Path]:
    """The model with its weights, and the file that they are from."""
    if name == demo.NAME:
        return demo.trained_digits_net(), demo.WEIGHTS
    path, model = Path(name), config.model
    kind = sniff.sniff(path)  # a missing file is told before a missing factory
    unsafe = caution() if kind.format.startswith("torch") else None
    if unsafe is not None:
        observer.notice(unsafe)
    made = None
    if model.factory is not None:
        made = make_module(model.factory, model.factory_args, _folder(config), config.compute.seed)
    module, told = load_model(
        path,
        made,
        weights=model.weights,
        trust=model.trust,
        trust_remote_code=model.trust_remote_code,
        base_model=Path(model.base_model) if model.base_model else None,
        submodule=model.submodule,
    )
    if told:
        observer.notice(f"model: {told}")
    return module, path


def _folder(config: RunConfig) -> Path | None:
    """The project file's folder, whose modules are importable."""
    return Path(config.folder) if config.folder else None


def _data(config: RunConfig, name: str, module: Any) -> Data:
    wanted = config.data
    source, subset = wanted.source, (wanted.num_samples, wanted.subset_seed)
    if (source is None and name == demo.NAME) or source == demo.NAME:
        return demo.digits().subset(*subset)
    if source is None:
        raise LoadError(
            "CT020",
            "no data given",
            expected="the samples over which the loss is a mean",
            received="no --data",
            remedy="--data data.npz (with arrays inputs and targets), or --data package.module:callable",
        )
    if is_reference(source) and not Path(source).exists():
        factory = resolve(source, "data", _folder(config))
        with torch.random.fork_rng(devices=[]):  # a shuffling loader draws its order here: the same for the same seed
            torch.manual_seed(config.compute.seed)
            made = call(factory, source, {}, "data factory")
            keys: dict[str, Any] = {"input_key": wanted.input_key, "target_key": wanted.target_key}
            return from_object(made, num_samples=wanted.num_samples, **keys).subset(*subset)
    return paths.from_path(source, _reading(config, Path(name), module))


def _reading(config: RunConfig, model: Path, module: Any) -> Reading:
    """What the settings, the model's folder and the loss say of how data are read."""
    wanted = config.data
    loss = config.loss.name if config.loss.name != "auto" else guess_by_class(module)
    prepared = preprocessing_of(model) if model.is_dir() else {}
    if wanted.image_size is not None:
        prepared["image_size"] = wanted.image_size
    for name in ("image_mean", "image_std"):
        values = numbers_of(getattr(wanted, name), name)
        if values is not None:
            prepared[name] = values
    return Reading(
        input_key=wanted.input_key,
        target_key=wanted.target_key,
        num_samples=wanted.num_samples,
        subset_seed=wanted.subset_seed,
        split=wanted.split,
        sequence_length=wanted.sequence_length,
        token_dtype=wanted.token_dtype,
        next_tokens=loss not in {"causal-lm", "masked-lm"},
        mask_tokens=loss == "masked-lm",
        tokenizer=Path(wanted.tokenizer) if wanted.tokenizer else model if model.is_dir() else None,
        seed=config.compute.seed,
        **prepared,
    )


def _loss(config: RunConfig, module: Any, data: Data, observer: Observer) -> Loss:
    name = config.loss.name
    if is_reference(name):
        return get_loss(resolve(name, "loss", _folder(config)))
    if name == "auto":
        name, reason = guess_loss(module, data)
        if config.model.checkpoint not in (None, demo.NAME):
            observer.notice(f"loss: {name} ({reason}); --loss names another")
    options = {key: paths.numbers_in(value) for key, value in config.loss.options.items()}
    if "ignore_index" in options_of(name):
        options = {"ignore_index": config.loss.ignore_index, **options}
    return get_loss(name, **options)
