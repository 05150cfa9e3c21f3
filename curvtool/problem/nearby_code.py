"""What Python files make, by their syntax trees alone: nothing is imported."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from pathlib import Path

_DATA = re.compile(r"(get_|load_|make_|train_|test_)?(data|dataset|loader|dataloader)")
_MOST_FILES = 100
_LARGEST = 2**20  # bytes of a file


def models_of(path: Path, folder: Path) -> list[str]:
    """`module:name` of classes that derive from a Module, and of functions that return one.

    Args:
        path: the file.
        folder: the one that modules are imported from.
    """
    found: list[str] = []
    for node in _body_of(path):
        makes: list[ast.expr] = node.bases if isinstance(node, ast.ClassDef) else []
        if isinstance(node, ast.FunctionDef):
            made = [each.value.func for each in ast.walk(node) if isinstance(each, ast.Return)
                    and isinstance(each.value, ast.Call)]  # fmt: skip
            makes = [*([node.returns] if node.returns is not None else []), *made]
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and any(_is_module(each, found) for each in makes):
            found.append(node.name)
    return [f"{_dotted(path, folder)}:{name}" for name in found]


def sources_of(path: Path, folder: Path) -> list[str]:
    """Likewise of functions without arguments that are called data, get_data, dataset or the like."""
    return [
        f"{_dotted(path, folder)}:{node.name}"
        for node in _body_of(path)
        if isinstance(node, ast.FunctionDef)
        and _DATA.fullmatch(node.name)
        and len(node.args.args) == len(node.args.defaults)
    ]


def flags_here() -> tuple[str, str]:
    """What `--factory` and `--data` may be given from the working folder's own files; else words that stand for it.

    Of several models the last: a file defines the parts of a network before the whole.
    """
    models, sources = models_here(), [name for path in _files_here() for name in sources_of(path, Path())]
    return (models[-1] if models else "module:Net"), (sources[0] if sources else "DATA")


def models_here() -> list[str]:
    """Every `--factory` that the working folder's own files offer."""
    return [name for path in _files_here() for name in models_of(path, Path())]


def _files_here() -> list[Path]:
    return sorted(Path().glob("*.py"))[:_MOST_FILES]


def _body_of(path: Path) -> list[ast.stmt]:
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST:
            return []
        return ast.parse(path.read_text(encoding="utf-8")).body
    except (SyntaxError, UnicodeDecodeError, OSError, ValueError, RecursionError, MemoryError):  # MemoryError: too deep
        return []


def _dotted(path: Path, folder: Path) -> str:
    return ".".join(path.relative_to(folder).with_suffix("").parts)


def _is_module(node: ast.expr, known: Sequence[str]) -> bool:
    """A module's class by its name, one of torch.nn's, or one of the same file."""
    place, _, name = ast.unparse(node).rpartition(".")
    named = name in {"Module", "LightningModule", "PreTrainedModel", "Sequential"}
    return named or place in {"nn", "torch.nn"} or (not place and name in known)
