"""A project file from what a folder holds: checkpoints, data, and the code of models, none of it executed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from curvtool.errors import CurvtoolError
from curvtool.problem.nearby_code import models_of, sources_of
from curvtool.report.model import Inspection
from curvtool.setup.inspection import inspect_file

_MOST_FILES = 300
_ESCAPED = {'"': '\\"', "\\": "\\\\"}
_DEPTH = 3
_SKIPPED = {"node_modules", "__pycache__", "site-packages", "venv", "build", "dist"}
_SUFFIXES = {
    ".pt", ".pth", ".ckpt", ".pkl", ".bin", ".safetensors", ".npz", ".npy", ".parquet", ".csv", ".jsonl", ".arrow",
}  # fmt: skip


@dataclass(frozen=True)
class Found:
    """Attributes:
    checkpoints: files that hold weights, the newest first.
    data: files that hold samples, the newest first.
    factories: `module:name` of classes that derive from a Module, and of functions that return one, by annotation or
        by a call that makes one.
    sources: `module:name` of functions without arguments that are called data, get_data, dataset or the like.
    """

    checkpoints: tuple[Path, ...]
    data: tuple[Path, ...]
    factories: tuple[str, ...]
    sources: tuple[str, ...] = ()


def look(folder: Path) -> Found:
    """What there is, three folders deep."""
    files = [
        path for path in sorted(folder.rglob("*"))
        if path.is_file() and _is_ours(path.relative_to(folder)) and _is_text(path.name)
    ]  # fmt: skip
    files = files[:_MOST_FILES]
    inspected = [(path, found) for path in files if path.suffix in _SUFFIXES and (found := _inspected(path))]
    inspected.sort(key=lambda pair: -pair[0].stat().st_mtime)
    code = [path for path in files if path.suffix == ".py"]
    return Found(
        tuple(path for path, found in inspected if found.role == "checkpoint"),
        tuple(path for path, found in inspected if found.role == "data"),
        tuple(name for path in code for name in models_of(path, folder)),
        tuple(name for path in code for name in sources_of(path, folder)),
    )


def models_in(folder: Path) -> list[str]:
    """`module:name` of what makes a model in a folder's Python files, three folders deep."""
    code = [path for path in sorted(folder.rglob("*.py")) if _is_ours(path.relative_to(folder))][:_MOST_FILES]
    return [name for path in code for name in models_of(path, folder)]


def project_file(found: Found, folder: Path) -> str:
    """The file's text, with comments that say what to look at.

    Args:
        found: what there is.
        folder: where the file will stand; paths are relative to it.
    """
    checkpoints = [_relative(path, folder) for path in found.checkpoints]
    data = [*found.sources, *(_relative(path, folder) for path in found.data)]
    lines = [
        "# Settings of curvtool run (all analyses below), and of curvtool eigs, trace, …, which take the shared ones.",
        "# A flag wins over a variable (CURVTOOL_BATCH_SIZE), a variable over this file: curvtool config show.",
        "",
        "[model]",
        *_choice("checkpoint", checkpoints, "model.pt"),
        "# the code that makes the module, package.module:callable; Hugging Face folders and TorchScript need none",
        *_choice("factory", found.factories, "models:Net"),
        "# factory_args = { num_classes = 10 }",
        "",
        "[data]",
        "# the data whose mean loss is differentiated: the training data, for sharpness",
        *_choice("source", data, "data.npz"),
        "# num_samples = 2000   # the first so many; all if left out",
        '# input_key = "x"      # arrays or columns, where they cannot be told',
        '# target_key = "y"',
        "",
        "[loss]",
        '# name = "cross-entropy"   # guessed from outputs and targets if left out, and printed',
        '# reduction = "mean"',
        "",
        "[compute]",
        '# device = "cuda"',
        '# dtype = "float64"    # where the noise floor is above the tolerance',
        "",
        "[[analysis]]",
        'kind = "eigs"          # the largest eigenvalues: is the minimum sharp?',
        "k = 5",
        "# lr = 0.1             # the learning rate: its product with the largest is compared with 2",
        "",
        "[[analysis]]",
        'kind = "trace"         # by layer: which layers bear fewer bits?',
        "per_layer = true",
        "",
        "# [[analysis]]",
        '# kind = "density"     # how all eigenvalues are spread',
        "",
        "# [[analysis]]",
        '# kind = "jacnorm"     # which inputs the outputs are most sensitive to',
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _choice(key: str, names: Sequence[str], example: str) -> list[str]:
    """A line with the first one, commented out where there is none; the others as comments."""
    if not names:
        return [f'# {key} = "{example}"']
    return [f"{key} = {toml_string(names[0])}", *(f"# {key} = {toml_string(other)}" for other in names[1:5])]


def toml_string(text: str) -> str:
    """The text in quotes, on one line: a file's name may hold quotes and newlines, which would be settings."""
    return '"' + "".join(_ESCAPED.get(letter) or _unicode(letter) for letter in text) + '"'


def _unicode(letter: str) -> str:
    return letter if letter.isprintable() else f"\\U{ord(letter):08X}"


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _is_text(name: str) -> bool:
    """Whether a file's name can be written down: one that is no UTF-8 cannot."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def _is_ours(path: Path) -> bool:
    parts = path.parts
    return len(parts) <= _DEPTH and not any(part in _SKIPPED or part.startswith(".") for part in parts)


def _inspected(path: Path) -> Inspection | None:
    try:
        return inspect_file(path)
    except CurvtoolError:
        return None
