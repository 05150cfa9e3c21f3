"""Data: any source becomes finite tensors in a fixed order, held in host memory.

The Hessian is a sum over the data, so a shuffled, endless or freshly augmented source would change the matrix between
two products. A source is therefore read once, in its order, and kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import torch

from curvtool.errors import LoadError
from curvtool.problem.scattering import rows_in_order
from curvtool.problem.tree import Tree, map_tensors, named_tensors
from curvtool.words import counted


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
        """Inputs and targets of the samples `start` to `stop`, as views; unsigned whole numbers become int64.

        From the number of samples on, these are places in the scattered order (see `scattering`), and copies.
        """
        num = len(self)
        if start >= num:
            places = slice(start - num, stop - num)

            def gathered(tensor: torch.Tensor) -> torch.Tensor:
                return _computable(tensor[rows_in_order(num, tensor.device)[places]])

            return map_tensors(gathered, self.inputs), map_tensors(gathered, self.targets)
        pick = partial(map_tensors, lambda t: _computable(t[start:stop]))
        return pick(self.inputs), pick(self.targets)

    def pieces(self) -> list[range]:
        """Consecutive samples whose targets are a few MiB, to look at all of them in bounded memory."""
        targets = [tensor for _, tensor in named_tensors(self.targets)]
        return _pieces(max(targets, key=lambda t: t.numel())) if targets else [range(len(self))]

    @staticmethod
    def pieces_of(tensor: torch.Tensor) -> list[range]:
        """Consecutive rows of a tensor that are a few MiB."""
        return _pieces(tensor)

    def subset(self, num_samples: int | None, seed: int | None = None) -> Data:
        """The first `num_samples`, or that many drawn without replacement by `seed`, in the data's order."""
        rows, note = choose_rows(len(self), num_samples, seed)
        told = replace(self, notes=(*self.notes, note)) if note else self
        return told.take(rows) if len(rows) < len(self) else told

    def take(self, rows: Sequence[int]) -> Data:
        """These samples, in the order given: views for a range, else a copy."""
        if isinstance(rows, range) and rows.step == 1:
            view = partial(map_tensors, lambda t: t[rows.start : rows.stop])
            return replace(self, inputs=view(self.inputs), targets=view(self.targets))
        # not an index tensor, which would have to be moved to the data's device
        pick = partial(map_tensors, lambda t: torch.stack([_computable(t[row]) for row in rows]))
        return replace(self, inputs=pick(self.inputs), targets=pick(self.targets), mapped=False)

    def fingerprint(self) -> str:
        """SHA-256 over names, dtypes, shapes and bytes, in order; all data are read once."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for name, tensor in named_tensors({"inputs": self.inputs, "targets": self.targets}):
            digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}".encode())
            for rows in _pieces(tensor):
                piece = tensor[rows.start : rows.stop].detach().cpu().contiguous()
                digest.update(piece.reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()


def choose_rows(num: int, wanted: int | None, seed: int | None) -> tuple[Sequence[int], str]:
    """Which of `num` samples are taken, in their order, and a line that says so (empty where all are).

    Args:
        num: how many there are.
        wanted: how many are taken at most; all if None.
        seed: they are drawn by it, without replacement, instead of the first ones.
    """
    if wanted is None or wanted >= num:
        short = wanted is not None and wanted > num
        return range(num), f"{wanted} samples were asked for, and there are {num}" if short else ""
    if seed is None:
        return range(wanted), f"{wanted} of {counted(num, 'sample', 'd')}, the first"
    order = torch.randperm(num, generator=torch.Generator().manual_seed(seed))
    return order[:wanted].sort().values.tolist(), f"{wanted} of {counted(num, 'sample', 'd')}, drawn by seed {seed}"


_PIECE_BYTES = 2**24
_UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)


def _pieces(tensor: torch.Tensor) -> list[range]:
    """Consecutive rows of a few MiB; all where the tensor is small."""
    step = max(1, _PIECE_BYTES * len(tensor) // max(tensor.numel() * tensor.element_size(), 1))
    return [range(start, min(start + step, len(tensor))) for start in range(0, len(tensor), step)]


def _computable(tensor: torch.Tensor) -> torch.Tensor:
    """int64 for unsigned whole numbers (as tokens are stored), for which torch has next to no operations."""
    return tensor.to(torch.int64) if tensor.dtype in _UNSIGNED else tensor
