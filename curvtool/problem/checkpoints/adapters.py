"""PEFT adapters (LoRA and the like): small weights on top of a base model, which lies elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from curvtool.errors import LoadError
from curvtool.problem.checkpoints.fit import require_finite
from curvtool.problem.checkpoints.hugging_face import import_extra, load_hugging_face
from curvtool.problem.checkpoints.limits import read_json, torn
from curvtool.problem.checkpoints.read import read
from curvtool.problem.checkpoints.sniff import ADAPTER_WEIGHTS
from curvtool.words import counted


def base_of(folder: Path) -> str:
    """The name of the base model that the adapter was trained on.

    Raises:
        LoadError: CT011.
    """
    config = read_json(folder / "adapter_config.json")
    name = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    if not isinstance(config, dict) or "peft_type" not in config:
        raise torn(folder / "adapter_config.json", ValueError("no peft_type in it"))
    return name if isinstance(name, str) else ""


def load_adapter(
    folder: Path, base: Path | None, *, trust: bool = False, trust_remote_code: bool = False
) -> tuple[nn.Module, str]:
    """The base model with the adapter on top, whose weights alone require gradients.

    Args:
        folder: with adapter_config.json.
        base: the base model's folder; the one that the adapter names if None.
        trust: as `load_hugging_face`.
        trust_remote_code: as `load_hugging_face`.

    Raises:
        LoadError: CT010 the base model is no folder here, CT014 weights that do not fit, CT018 peft is not installed;
            and those of `load_hugging_face`.
    """
    named = base_of(folder)
    place = base or next((p for p in (Path(named), folder / named) if named and (p / "config.json").is_file()), None)
    if place is None or not (place / "config.json").is_file():
        raise LoadError(
            "CT010",
            f"{folder} is an adapter, and its base model is not here",
            expected="the base model's folder",
            received=f"{place or named or 'no name'}: no folder with a config.json",
            remedy="--base-model FOLDER",
        )
    file = next((folder / name for name in ADAPTER_WEIGHTS if (folder / name).is_file()), None)
    if file is None:
        raise LoadError(
            "CT011",
            f"{folder} holds no adapter weights",
            expected=" or ".join(ADAPTER_WEIGHTS),
            received=", ".join(sorted(p.name for p in folder.iterdir())[:8]),
            remedy="copy the whole folder",
        )
    weights = read(file)
    model, told = load_hugging_face(place, trust=trust, trust_remote_code=trust_remote_code)
    peft = import_extra("peft", "hf")
    try:
        adapted: Any = peft.PeftModel.from_pretrained(model, str(folder), is_trainable=True)
        held = peft.get_peft_model_state_dict(adapted)
    except Exception as error:  # an adapter of another model fails in any way
        raise LoadError(
            "CT014",
            f"the adapter {folder} does not fit {place}",
            expected="the base model that it was trained on",
            received=f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:300]}",
            remedy=f"it names {named or 'none'}: --base-model FOLDER",
        ) from error
    missing = sorted(set(held) - set(weights))
    unused = sorted(set(weights) - set(held))
    if missing or unused:
        raise LoadError(
            "CT014",
            f"the adapter {folder} does not fit {place}",
            expected=f"{counted(len(held), 'tensor')} as {next(iter(held), '')}",
            received=f"missing {len(missing)}, unexpected {len(unused)}: {', '.join([*missing, *unused][:3])}",
            remedy="--base-model FOLDER with the model that it was trained on",
        )
    require_finite(weights)
    return adapted, f"an adapter on {told}"
