"""Data from what Python code has at hand: tensors, dictionaries, Datasets, DataLoaders, batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from curvtool.errors import LoadError, suggest
from curvtool.problem.data import Data
from curvtool.problem.tree import Tree, concatenate, named_tensors

INPUT_KEYS = ("inputs", "input", "x", "X", "images", "image", "data", "features", "input_ids", "pixel_values")
TARGET_KEYS = ("targets", "target", "y", "Y", "labels", "label")
_SIDE_INPUTS = ("attention_mask", "token_type_ids", "position_ids")


def from_object(
    source: Any,
    *,
    input_key: str | None = None,
    target_key: str | None = None,
    num_samples: int | None = None,
) -> Data:
    """Data from what Python code has at hand.

    Args:
        source: a `Data`, `(inputs, targets)`, a dict with both by name, a Dataset, a DataLoader, or any finite
            iterable of `(inputs, targets)` batches.
        input_key: the name of the inputs in a dict; guessed from the usual names if None.
        target_key: likewise for the targets.
        num_samples: stop reading batches once there are this many.

    Raises:
        LoadError: CT021 where the source has no form known here, CT023 where it is empty.
    """
    source = _of_numpy(source)
    if isinstance(source, Data):
        return source
    if isinstance(source, torch.Tensor):
        return Data(source)
    if isinstance(source, Mapping):
        return from_mapping(source, input_key, target_key)
    if isinstance(source, tuple) and len(source) == 2 and _is_tensors(source[0]):
        return Data(*source)
    if isinstance(source, IterableDataset) and num_samples is None:
        raise LoadError(
            "CT021",
            "an iterable data set may never end",
            expected="a finite source",
            received=type(source).__name__,
            remedy="add --num-samples N",
        )
    if isinstance(source, Dataset):
        source = DataLoader(source, batch_size=256, shuffle=False, collate_fn=default_collate)
    if isinstance(source, Iterable) and not isinstance(source, (str, bytes)):
        return _from_batches(source, input_key, target_key, num_samples)
    raise LoadError(
        "CT021",
        "the data have no form known here",
        expected="tensors, a dict of tensors, a Dataset, a DataLoader or batches",
        received=type(source).__name__,
        remedy="return (inputs, targets) from the data factory",
    )


def _of_numpy(source: Any) -> Any:
    """NumPy's arrays of numbers, also in a tuple, as tensors."""
    if isinstance(source, np.ndarray) and source.dtype.kind in "fiub":
        return torch.from_numpy(np.ascontiguousarray(source))
    return tuple(map(_of_numpy, source)) if type(source) is tuple else source


def _is_numbers(value: Any) -> bool:
    """A list of numbers, or of lists of one length of them."""
    if not isinstance(value, list) or not value:
        return False
    try:
        return np.asarray(value).dtype.kind in "fiub"
    except (ValueError, OverflowError):
        return False


def _is_nested(value: Any) -> bool:
    return isinstance(value, (Mapping, tuple)) and _is_tensors(value)


def _is_tensors(tree: Any) -> bool:
    return next(named_tensors(tree), None) is not None


def _from_batches(
    source: Iterable[Any], input_key: str | None, target_key: str | None, num_samples: int | None
) -> Data:
    parts: list[Data] = []
    count = 0
    for batch in _told(source):
        if isinstance(batch, Mapping):
            part = from_mapping(batch, input_key, target_key)
        elif isinstance(batch, (tuple, list)) and len(batch) == 2 and all(_is_tensors(half) for half in batch):
            part = Data(batch[0], batch[1])
        elif isinstance(batch, (tuple, list)) and len(batch) > 2:
            part = Data(tuple(batch[:-1]), batch[-1])  # several inputs, the targets last
        elif isinstance(batch, torch.Tensor) or (isinstance(batch, (tuple, list)) and len(batch) == 1):
            part = Data(batch[0] if isinstance(batch, (tuple, list)) else batch)
        else:
            raise LoadError(
                "CT021",
                "a batch holds no tensors",
                expected="(inputs, targets) or a dict of tensors",
                received=type(batch).__name__,
                remedy="convert the items to tensors in the Dataset",
            )
        parts.append(part)
        count += len(part)
        if num_samples is not None and count >= num_samples:
            break
    if not parts:
        raise LoadError(
            "CT023",
            "the data are empty",
            expected="at least one batch",
            received="none",
            remedy="check the source",
        )
    try:
        inputs = concatenate([part.inputs for part in parts])
        targets = concatenate([part.targets for part in parts])
    except (RuntimeError, KeyError, IndexError) as error:
        raise LoadError(
            "CT021",
            "the batches do not have one shape",
            expected="samples of one shape",
            received=str(error).splitlines()[0],
            remedy="pad the samples to one length in the collate function",
        ) from error
    return Data(inputs, targets, parts[0].notes)


def _told(source: Iterable[Any]) -> Iterator[Any]:
    """The batches; what fails in the user's own code while they are made is told in words.

    Raises:
        LoadError: CT021.
    """
    batches = iter(source)
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except (LoadError, MemoryError):
            raise
        except Exception as error:
            words = str(error).strip().splitlines() or [""]
            raise LoadError(
                "CT021",
                "the data fail while they are read",
                expected="samples of one shape, as numbers",
                received=f"{type(error).__name__}: {words[-1][:300]}",
                remedy="try next(iter(DataLoader(dataset, 256))); pad what is ragged, encode labels as numbers",
            ) from error
        yield batch


def from_mapping(content: Mapping[str, Any], input_key: str | None, target_key: str | None) -> Data:
    """Picks inputs and targets out of named arrays; the names are the caller's, or guessed from the usual ones."""
    arrays: dict[str, Tree] = {
        str(k): torch.as_tensor(v) if isinstance(v, (np.ndarray, list)) else v
        for k, v in content.items()
        if isinstance(v, (torch.Tensor, np.ndarray)) or _is_numbers(v) or _is_nested(v)
    }
    names = list(arrays)
    for flag, key in (("--input-key", input_key), ("--target-key", target_key)):
        if key is not None and key not in arrays:
            raise LoadError(
                "CT021",
                f"the data have no {key!r}",
                expected=f"{flag} {key}",
                received=", ".join(names) or "nothing",
                remedy=suggest(key, names or ["(empty)"]),
            )
    notes: list[str] = []
    if input_key is None:
        found = [key for key in INPUT_KEYS if key in arrays and key != target_key]
        if not found:
            raise LoadError(
                "CT021",
                "cannot tell which array holds the inputs",
                expected=f"one of {', '.join(INPUT_KEYS)}",
                received=", ".join(names) or "nothing",
                remedy=f"--input-key {names[0]}" if names else "check the file",
            )
        input_key = found[0]
        notes.append(f"inputs from {input_key!r}")
    if target_key is None:
        target_key = next((key for key in TARGET_KEYS if key in arrays and key != input_key), None)
        if target_key is not None:
            notes.append(f"targets from {target_key!r}")
    side = {key: arrays[key] for key in _SIDE_INPUTS if key in arrays and key not in {input_key, target_key}}
    inputs: Tree = {input_key: arrays[input_key], **side} if side else arrays[input_key]
    return Data(inputs, arrays[target_key] if target_key is not None else None, tuple(notes))
