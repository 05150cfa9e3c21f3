"""Folders of images: a class a folder, or none, in the order of their names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from curvtool.errors import LoadError
from curvtool.problem.checkpoints.hugging_face import import_extra
from curvtool.problem.checkpoints.limits import read_json
from curvtool.problem.data import Data, choose_rows
from curvtool.problem.sources.reading import Reading, require_room
from curvtool.words import counted

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
_MAX_PIXELS = 2**28
_PARTS = {"train", "training", "val", "valid", "validation", "test", "testing", "dev"}


def image_files(folder: Path) -> list[Path]:
    """The images in the folder and those below it, in the order of their paths; links to folders are not followed."""
    found = []
    for place, _, names in os.walk(folder):
        found += [Path(place) / name for name in names if Path(name).suffix.lower() in SUFFIXES]
    return sorted(found)


def read_images(folder: Path, reading: Reading) -> Data:
    """Images as floats between 0 and 1, less the mean and over the deviation, (N, 3, height, width).

    The classes are the folders right below, in the order of their names, as torchvision and datasets count them.

    Raises:
        LoadError: CT018 pillow is not installed, CT021 images of several sizes, CT025 one that cannot be read.
    """
    pillow = import_extra("PIL.Image", "data")
    folder = _part_of(folder, reading.split)
    files = image_files(folder)
    classes = sorted({file.relative_to(folder).parts[0] for file in files if file.parent != folder})
    loose = [file for file in files if file.parent == folder]
    if classes and loose:
        raise LoadError(
            "CT021",
            f"{folder} holds images beside its classes' folders",
            expected="a folder a class, or images alone",
            received=f"{counted(len(classes), 'folder')} and {loose[0].name}",
            remedy="move them into a folder of their class",
        )
    rows, note = choose_rows(len(files), reading.num_samples, reading.subset_seed)
    chosen = [files[row] for row in rows]
    inputs = stacked_images(pillow, [(str(file), file) for file in chosen], reading)
    labels = [classes.index(file.relative_to(folder).parts[0]) for file in chosen] if classes else None
    told = f"{counted(len(classes), 'class')} by folder: {', '.join(classes[:5])}{', …' if len(classes) > 5 else ''}"
    notes = [*([told] if classes else []), *([note] if note else []), _scale_note(reading)]
    return Data(inputs, torch.tensor(labels) if labels is not None else None, tuple(notes), checked=True)


def _part_of(folder: Path, split: str | None) -> Path:
    """The folder of the part that is asked for; folders named as parts are no classes."""
    inside = sorted(item.name for item in folder.iterdir() if item.is_dir())
    parts = [name for name in inside if name.lower() in _PARTS]
    if split is not None and (folder / split).is_dir():
        return folder / split
    if split is not None or (parts and len(parts) == len(inside)):
        raise LoadError(
            "CT021",
            f"{folder} holds parts of a data set" if parts else f"{folder} has no part {split!r}",
            expected="--split, one of " + ", ".join(inside) if inside else "folders of parts",
            received=split or "none",
            remedy=f"--split {(parts or inside or ['NAME'])[-1]}",
        )
    return folder


def stacked_images(pillow: Any, sources: Sequence[tuple[str, Any]], reading: Reading) -> torch.Tensor:
    """The images of files, or those that are decoded already, with their names for errors: (N, 3, height, width)."""
    pillow.MAX_IMAGE_PIXELS = _MAX_PIXELS
    result: torch.Tensor | None = None
    for row, (name, source) in enumerate(sources):
        try:
            image = source if hasattr(source, "convert") else pillow.open(source)
            pixels = _pixels(image, reading.image_size)
        except Exception as error:  # a damaged image fails in any way
            raise LoadError(
                "CT025",
                f"the image in row {row} cannot be read: {name}",
                expected="a whole image",
                received=f"{type(error).__name__}: {str(error)[:200]}",
                remedy="remove or replace it",
            ) from error
        if result is None:
            require_room(
                4 * len(sources) * pixels.size, f"{counted(len(sources), 'image')} of {pixels.shape[:2]} pixels"
            )
            result = torch.empty(len(sources), pixels.shape[2], *pixels.shape[:2])
        if pixels.shape[:2] != tuple(result.shape[2:]):
            raise LoadError(
                "CT021",
                "the images are of several sizes",
                expected=f"{tuple(result.shape[2:])} pixels as the first one",
                received=f"{pixels.shape[:2]} in row {row}: {name}",
                remedy="--image-size N resizes and crops them, as in evaluation",
            )
        result[row] = torch.from_numpy(pixels).permute(2, 0, 1)
    if result is None:
        raise LoadError(
            "CT023", "there are no images", expected="at least one", received="none", remedy="check the folder"
        )
    mean, std = (_channels(values) for values in (reading.image_mean or (0.0,), reading.image_std or (1.0,)))
    return result.div_(255).sub_(mean).div_(std)


def _channels(values: Sequence[float]) -> torch.Tensor:
    return torch.tensor(list(values) * (3 if len(values) == 1 else 1)).view(1, 3, 1, 1)


def _pixels(image: Any, size: int | None) -> np.ndarray:
    """(height, width, 3), 0 to 255; the shorter side resized to `size` and the middle cut out."""
    image = image.convert("RGB")
    if size is not None and image.size != (size, size):
        scale = size / min(image.size)
        image = image.resize([max(size, round(side * scale)) for side in image.size])
        left, top = ((side - size) // 2 for side in image.size)
        image = image.crop((left, top, left + size, top + size))
    return np.array(image, dtype=np.uint8)


def _scale_note(reading: Reading) -> str:
    if reading.image_mean is None and reading.image_std is None:
        return "pixels as x / 255; a model that was trained on normalised images needs --image-mean and --image-std"
    return f"pixels as (x / 255 - {reading.image_mean or 0}) / {reading.image_std or 1}"


def preprocessing_of(folder: Path) -> dict[str, Any]:
    """Size, mean and deviation that a Hugging Face folder says its images were prepared with."""
    path = folder / "preprocessor_config.json"
    config = read_json(path) if path.is_file() else {}
    if not isinstance(config, dict):
        return {}
    found: dict[str, Any] = {}
    size = config.get("crop_size") or config.get("size")
    sides = [size] if type(size) is int else list(size.values()) if isinstance(size, dict) else []
    if sides and all(type(side) is int and 0 < side < 10_000 for side in sides):
        found["image_size"] = min(sides)
    for name in ("image_mean", "image_std"):
        values = config.get(name)
        if config.get("do_normalize", True) and isinstance(values, list) and len(values) == 3:
            found[name] = tuple(float(value) for value in values)
    return found
