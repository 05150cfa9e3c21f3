"""Vectors over the parameters as safetensors files, a tensor a parameter: `--vectors` writes, `--start` reads them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from curvtool.errors import LoadError
from curvtool.words import counted

_COLUMNS = 2**20  # that are held in float64 at once
_DEPENDENT = 1e-3  # of a vector's length: what float32 files and solvers leave of two copies of one


def to_bytes(parts: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """The file's content: tensors by parameter name, on the host, and what they are."""
    return save({name: part.detach().cpu().contiguous() for name, part in parts.items()}, dict(metadata))


def stacked_parts(vectors: torch.Tensor, shapes: Mapping[str, torch.Size]) -> dict[str, torch.Tensor]:
    """Flat vectors (k, P) as tensors of shape (k, *shape) by parameter name."""
    pieces = vectors.split([shape.numel() for shape in shapes.values()], dim=1)
    return {
        name: piece.reshape(len(vectors), *shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)
    }


def load_vectors(path: Path, shapes: Mapping[str, torch.Size]) -> torch.Tensor:
    """Vectors (k, P) of a file that `stacked_parts` and `to_bytes` made, in the parameters' order, on the host.

    Raises:
        LoadError: CT010 no such file, CT029 not such vectors, of other parameters, zero, or not finite.
    """
    if not path.is_file():
        raise LoadError(
            "CT010",
            f"no vectors at {path}",
            expected="a .safetensors file that --vectors wrote",
            received="no file",
            remedy="check the path",
        )
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise LoadError(
            "CT029",
            f"{path} holds no vectors",
            expected="a .safetensors file that --vectors wrote",
            received=str(error)[:200],
            remedy="write one with curvtool eigs … --vectors FILE.safetensors",
        ) from error
    missing = [name for name in shapes if name not in held]
    counts = {len(held[name]) if held[name].dim() else 0 for name in shapes if name in held}
    fitting = not missing and len(held) == len(shapes) and len(counts) == 1
    if not fitting or any(held[name].shape[1:] != shape for name, shape in shapes.items()):
        raise LoadError(
            "CT029",
            f"the vectors in {path.name} belong to other parameters",
            expected=f"{counted(len(shapes), 'tensor')} of shape (k, *shape) by parameter name",
            received=counted(len(held), "tensor") + (f", none for {missing[0]!r}" if missing else ", of other shapes"),
            remedy="take the same model and the same --params and --exclude as when they were written",
        )
    vectors = torch.cat([held[name].flatten(1) for name in shapes], dim=1)
    norms = torch.linalg.vector_norm(vectors, dim=1, dtype=torch.float64)
    for row, norm in enumerate(norms.tolist()):
        if not 0 < norm < math.inf:
            raise LoadError(
                "CT029",
                f"vector {row} in {path.name} has no direction",
                expected="vectors of finite numbers that are not all 0",
                received="zeros" if norm == 0 else "numbers that are not finite",
                remedy=f"take row {row} out of the file",
            )
    return vectors


def independent(vectors: torch.Tensor) -> torch.Tensor:
    """Those of the vectors (k, P) that do not lie, to within a thousandth of their length, in the span of others before
    them: made orthonormal, the others would be directions of their rounding."""
    gram = sum((part.double() @ part.double().T for part in vectors.split(_COLUMNS, dim=1)), torch.zeros(())).numpy()
    lengths = np.sqrt(np.diag(gram))
    gram = gram / np.outer(lengths, lengths)
    kept: list[int] = []
    for row in range(len(gram)):
        inner = gram[kept, row]
        beside = float(inner @ np.linalg.solve(gram[np.ix_(kept, kept)], inner)) if kept else 0.0
        if 1.0 - beside > _DEPENDENT**2:
            kept.append(row)
    return vectors[kept]
