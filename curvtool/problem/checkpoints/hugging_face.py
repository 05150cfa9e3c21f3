"""Models in folders of Hugging Face's transformers and of timm, which bring their architecture by name.

Only what lies in the folder is used: nothing is fetched, and a folder's own code (`auto_map`) runs only where the user
asks for it.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from curvtool.errors import LoadError, suggest
from curvtool.problem.checkpoints.fit import fit, require_finite
from curvtool.problem.checkpoints.limits import read_json, too_large, torn
from curvtool.problem.checkpoints.sharded import read_folder, weight_files
from curvtool.words import counted

_LISTED = 5
_MAX_LAYERS, _MAX_DEPTH = 10_000, 5


def import_extra(package: str, extra: str) -> ModuleType:
    """A package that only some users need.

    Raises:
        LoadError: CT018, it is not installed, or cannot be imported.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when it is imported: nothing is fetched
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise _broken(package, error) from error
        raise LoadError(
            "CT018",
            f"this needs {package}, which is not installed",
            expected=f"the extra {extra!r}",
            received=str(error),
            remedy=f"pip install 'curvtool[{extra}]'",
        ) from None
    except Exception as error:
        raise _broken(package, error) from error


def _broken(package: str, error: BaseException) -> LoadError:
    words = str(error).strip().splitlines() or [""]
    chain = f"{error}{error.__cause__}{error.__context__}"
    return LoadError(
        "CT018",
        f"{package} cannot be imported here",
        expected="an installation whose parts fit together",
        received=f"{type(error).__name__}: {words[-1][:300]}",
        remedy="this torchvision was built for another torch: pip uninstall torchvision, or install the two together"
        if "torchvision" in chain
        else f"python -c 'import {package}'",
    )


def load_hugging_face(folder: Path, *, trust: bool = False, trust_remote_code: bool = False) -> tuple[nn.Module, str]:
    """The model of the class that the folder's configuration names, with the folder's weights, all of them.

    Args:
        folder: with config.json and weights.
        trust: read weights that are pickles with more than tensors in them.
        trust_remote_code: run the Python files that the configuration names.

    Returns:
        The module, and a line that says what it is.

    Raises:
        LoadError: CT011 a damaged folder, CT014 weights that are missing or of other shapes, CT015 code that is not
            trusted, CT018 transformers is not installed, CT025 weights that are not finite.
    """
    config = read_json(folder / "config.json")
    if not isinstance(config, dict):
        raise torn(folder / "config.json", ValueError("no dictionary"))
    _check_config(folder, config, trust_remote_code)
    files = weight_files(folder)
    for file in files:
        if file.suffix != ".safetensors":
            _check_pickle(file, trust)
    transformers = import_extra("transformers", "hf")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    kind, name = _model_class(transformers, config, trust_remote_code)
    _check_size(transformers, kind, folder, sum(file.stat().st_size for file in files))
    options: dict[str, Any] = {
        "local_files_only": True,
        "trust_remote_code": trust_remote_code,
        "output_loading_info": True,
        "attn_implementation": "sdpa",
    }
    try:
        model, found = _load(kind, folder, options)
    except LoadError:
        raise
    except Exception as error:  # a configuration that the class cannot use fails in any way
        chain = _broken("transformers", error)
        if "torchvision" in chain.remedy:
            raise chain from error
        raise LoadError(
            "CT014",
            f"{name} cannot be made from {folder}",
            expected="a configuration and weights that fit each other",
            received=f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:300]}",
            remedy=f"transformers {transformers.__version__} is here; the folder was written by "
            f"{str(config.get('transformers_version', 'another'))[:20]}",
        ) from error
    missing = sorted(map(str, found.get("missing_keys", ())))
    shapes = sorted(str(entry) for entry in found.get("mismatched_keys", ()))
    if missing or shapes:
        listed = ", ".join((missing + shapes)[:_LISTED])
        raise LoadError(
            "CT014",
            f"{folder} lacks weights of {name}, which would be drawn at random",
            expected="a weight for every parameter",
            received=f"{len(missing)} missing, {len(shapes)} of other shapes: {listed}",
            remedy="the head was never trained? Name the class that was, in config.json's architectures",
        )
    require_finite(model.state_dict())
    if getattr(model.config, "use_cache", False):
        model.config.use_cache = False  # keys and values of former tokens, which nothing reads here
    unused = sorted(map(str, found.get("unexpected_keys", ())))
    told = (
        f"; no part of it uses {counted(len(unused), 'tensor')} of the folder ({', '.join(unused[:3])})"
        if unused
        else ""
    )
    return model, f"{name} of transformers {transformers.__version__}{told}"


def _load(kind: Any, folder: Path, options: dict[str, Any]) -> Any:
    try:
        return kind.from_pretrained(str(folder), **options)
    except (ValueError, ImportError, TypeError) as error:
        if "attn_implementation" not in str(error) and "scaled_dot_product" not in str(error):
            raise
        return kind.from_pretrained(str(folder), **{**options, "attn_implementation": "eager"})


def _check_pickle(path: Path, trust: bool) -> None:
    """Refuses pickled weights with more than tensors in them before any library reads them."""
    if not trust:
        from curvtool.problem.checkpoints.read import read

        read(path)


def _check_size(transformers: ModuleType, kind: Any, folder: Path, num_bytes: int) -> None:
    """Refuses a configuration of far more parameters than the weights can be, before any of them is allocated."""
    if kind.__name__.startswith("AutoModel"):
        return
    try:
        with torch.device("meta"):
            made = kind(transformers.AutoConfig.from_pretrained(str(folder), local_files_only=True))
        num_params = sum(p.numel() for p in made.parameters())
    except Exception:  # not every class can be made there; loading tells of what is wrong
        return
    if num_params > max(num_bytes, 1):  # a byte a number at least
        raise too_large(
            folder / "config.json", f"{counted(num_params, 'parameter')} for {counted(num_bytes, 'byte')} of weights"
        )


def _check_layers(path: Path, config: dict[str, Any], depth: int = 0) -> None:
    for key, value in config.items():
        if isinstance(value, dict) and depth < _MAX_DEPTH:
            _check_layers(path, value, depth + 1)
        elif type(value) is int and value > _MAX_LAYERS and "layer" in str(key):
            raise too_large(path, f"{str(key)[:60]} = {value:,}")


def _check_config(folder: Path, config: dict[str, Any], trust_remote_code: bool) -> None:
    if config.get("quantization_config"):
        method = config["quantization_config"]
        raise LoadError(
            "CT019",
            f"the weights in {folder} are quantised",
            expected="weights as floating numbers, which can be differentiated by",
            received=str(method.get("quant_method", method) if isinstance(method, dict) else method)[:100],
            remedy="use the folder that was quantised, or dequantise it (model.dequantize(); model.save_pretrained)",
        )
    _check_layers(folder / "config.json", config)
    names = config.get("architectures") or []
    known = isinstance(config.get("model_type"), str) or bool(names)
    if not known and not config.get("auto_map"):
        raise LoadError(
            "CT014",
            f"{folder} does not say what model it holds",
            expected="architectures and model_type in config.json",
            received=", ".join(map(str, list(config)[:8])) or "an empty configuration",
            remedy="name the code with --factory",
        )


def _model_class(transformers: ModuleType, config: dict[str, Any], trust_remote_code: bool) -> tuple[Any, str]:
    """The class by the name that the configuration gives; the folder's own where that is trusted."""
    names = [name for name in config.get("architectures") or [] if isinstance(name, str)]
    own = config.get("auto_map")
    native = next((name for name in names if name.isidentifier() and hasattr(transformers, name)), None)
    if native is not None:
        return getattr(transformers, native), native
    if own:
        if not trust_remote_code:
            files = ", ".join(map(str, own.values() if isinstance(own, dict) else [own]))
            raise LoadError(
                "CT015",
                "the folder brings code of its own, which would run",
                expected="a class that transformers knows",
                received=f"auto_map: {files[:200]}",
                remedy="read that code; then add --trust-remote-code",
            )
        auto = next((key for key in own if key.startswith("AutoModel")), "AutoModel") if isinstance(own, dict) else ""
        return getattr(transformers, auto or "AutoModel"), names[0] if names else auto
    if names:
        alike = [name for name in dir(transformers) if name.startswith(names[0][:4])][:200]
        raise LoadError(
            "CT014",
            f"transformers {transformers.__version__} has no {names[0][:80]}",
            expected="a class that it knows",
            received=str(names)[:200],
            remedy=suggest(names[0][:80], alike) if alike else "a newer transformers, or --factory",
        )
    return transformers.AutoModel, f"AutoModel of {config.get('model_type')}"


def load_timm_folder(folder: Path, trust: bool) -> tuple[nn.Module, str]:
    """The timm model that the folder's configuration names, with the folder's weights.

    Raises:
        LoadError: CT011, CT014 as `fit`, CT018 timm is not installed.
    """
    config = read_json(folder / "config.json")
    arguments = dict(config.get("model_args") or {})
    if isinstance(config.get("num_classes"), int):
        arguments["num_classes"] = config["num_classes"]
    model = make_timm(str(config["architecture"]), arguments)
    fit(model, read_folder(folder, trust))
    return model, f"{config['architecture']} of timm"


def make_timm(name: str, arguments: dict[str, Any]) -> nn.Module:
    """A timm model by its name, its weights drawn at random.

    Raises:
        LoadError: CT013 no such name, CT016 it cannot be made, CT018 timm is not installed.
    """
    timm = import_extra("timm", "timm")
    base = name.partition(".")[0]
    if not timm.is_model(base):
        raise LoadError(
            "CT013",
            f"timm has no model {name!r}",
            expected="a name that timm knows",
            received=name,
            remedy=suggest(base, timm.list_models()),
        )
    try:
        return timm.create_model(name, pretrained=False, **arguments)
    except Exception as error:
        raise LoadError(
            "CT016",
            f"timm cannot make {name}",
            expected="arguments that it takes",
            received=f"{type(error).__name__}: {str(error)[:300]}",
            remedy="pass them with -K name=value",
        ) from error
