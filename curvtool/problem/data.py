"""Data: any source becomes finite tensors in a fixed order, held in host memory.

The Hessian is a sum over the data, so a shuffled, endless or freshly augmented source would change the matrix between
two products. A source is therefore read once, in its order, and kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from curvtool.errors import LoadError, suggest
from curvtool.problem.tree import Tree, concatenate, map_tensors, named_tensors

INPUT_KEYS = ("inputs", "input", "x", "X", "images", "image", "data", "features", "input_ids", "pixel_values")
TARGET_KEYS = ("targets", "target", "y", "Y", "labels", "label")
_SIDE_INPUTS = ("attention_mask", "token_type_ids", "position_ids")


@dataclass(frozen=True)
class Data:
    """Inputs and targets of N samples in a fixed order.

    Attributes:
        inputs: a tensor, or a dict or tuple of tensors, each with N as its first dimension.
        targets: likewise, or None where the source has none.
        notes: how the source was read, a line each (keys that were guessed, samples that were taken).
        mapped: the tensors lie in a file's memory map, which must not be written to.
        checked: every number is known to be finite.
    """

    inputs: Tree
    targets: Tree | None = None
    notes: tuple[str, ...] = field(default=())
    mapped: bool = False
    checked: bool = False

    def __post_init__(self) -> None:
        sizes = {name or "inputs": len(t) if t.dim() else -1 for name, t in named_tensors(self.inputs)}
        if self.targets is not None:
            sizes |= {
                f"targets.{n}" if n else "targets": len(t) if t.dim() else -1 for n, t in named_tensors(self.targets)
            }
        if not sizes or max(sizes.values()) <= 0:
            raise LoadError(
                "CT023",
                "the data are empty",
                expected="at least one sample",
                received=str(sizes or "no tensors"),
                remedy="check the path and --num-samples",
            )
        if len(set(sizes.values())) > 1:
            raise LoadError(
                "CT021",
                "inputs and targets have different numbers of samples",
                expected="one length along the first dimension",
                received=", ".join(f"{name}: {size}" for name, size in sizes.items()),
                remedy="name the right arrays with --input-key and --target-key",
            )
        if not self.checked:
            self._check_finite()
            object.__setattr__(self, "checked", True)

    def _check_finite(self) -> None:
        """A piece of a file at a time, which may be larger than memory."""
        for name, tensor in named_tensors({"inputs": self.inputs, "targets": self.targets}):
            if not tensor.is_floating_point():
                continue
            for rows in _pieces(tensor):
                piece = tensor[rows.start : rows.stop]
                if bool(torch.isfinite(piece).all()):
                    continue
                row = rows.start + int(torch.nonzero(~torch.isfinite(piece.reshape(len(piece), -1)).all(1))[0])
                raise LoadError(
                    "CT025",
                    f"the data hold NaN or infinity: {name}, row {row}",
                    expected="finite numbers",
                    received=f"a value that is not finite in row {row} (the first row is 0)",
                    remedy="drop or mend that row",
                )

    def __len__(self) -> int:
        return len(next(named_tensors(self.inputs))[1])

    def rows(self, start: int, stop: int) -> tuple[Tree, Tree]:
        """Inputs and targets of the samples `start` to `stop`, as views; unsigned whole numbers become int64."""
        pick = partial(map_tensors, lambda t: _computable(t[start:stop]))
        return pick(self.inputs), pick(self.targets)

    def pieces(self) -> list[range]:
        """Consecutive samples whose targets are a few MiB, to look at all of them in bounded memory."""
        targets = [tensor for _, tensor in named_tensors(self.targets)]
        return _pieces(max(targets, key=lambda t: t.numel())) if targets else [range(len(self))]

    def subset(self, num_samples: int | None, seed: int | None = None) -> Data:
        """The first `num_samples`, or that many drawn without replacement by `seed`, in the data's order."""
        if num_samples is None or (num_samples >= len(self) and seed is None):
            short = num_samples is not None and num_samples > len(self)
            note = f"{num_samples} samples were asked for, and there are {len(self)}"
            return replace(self, notes=(*self.notes, note)) if short else self
        num = min(num_samples, len(self))
        rows: Sequence[int] = range(num)
        if seed is not None:
            order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
            rows = order[:num].sort().values.tolist()
        note = f"{num} of {len(self)} samples" + (f", drawn by seed {seed}" if seed is not None else ", the first")
        return replace(self.take(rows), notes=(*self.notes, note))

    def take(self, rows: Sequence[int]) -> Data:
        """These samples, in the order given: views for a range, else a copy."""
        if isinstance(rows, range) and rows.step == 1:
            view = partial(map_tensors, lambda t: t[rows.start : rows.stop])
            return replace(self, inputs=view(self.inputs), targets=view(self.targets))
        # not an index tensor, which would have to be moved to the data's device
        pick = partial(map_tensors, lambda t: torch.stack([_computable(t[row]) for row in rows]))
        return replace(self, inputs=pick(self.inputs), targets=pick(self.targets), mapped=False)

    def fingerprint(self) -> str:
        """SHA-256 over names, dtypes, shapes and bytes, in order."""
        digest = hashlib.sha256()
        for name, tensor in named_tensors({"inputs": self.inputs, "targets": self.targets}):
            digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}".encode())
            for rows in _pieces(tensor):
                piece = tensor[rows.start : rows.stop].detach().cpu().contiguous()
                digest.update(piece.reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()


_PIECE_BYTES = 2**24
_UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)


def _pieces(tensor: torch.Tensor) -> list[range]:
    """Consecutive rows of a few MiB; all where the tensor is small."""
    step = max(1, _PIECE_BYTES * len(tensor) // max(tensor.numel() * tensor.element_size(), 1))
    return [range(start, min(start + step, len(tensor))) for start in range(0, len(tensor), step)]


def _computable(tensor: torch.Tensor) -> torch.Tensor:
    """int64 for unsigned whole numbers (as tokens are stored), for which torch has next to no operations."""
    return tensor.to(torch.int64) if tensor.dtype in _UNSIGNED else tensor


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
        if isinstance(v, (torch.Tensor, np.ndarray, list)) or (isinstance(v, (Mapping, tuple)) and _is_tensors(v))
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
