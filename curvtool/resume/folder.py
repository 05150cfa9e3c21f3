"""A folder with the state of a run: what was saved last, and what was saved before that.

    000017/rank-0-of-4.safetensors the tensors that each rank held
    000017/state.json              the entries, a fingerprint of the problem, and the files with their checksums
    lock                           held by the process that writes, and naming it

A state counts from the moment that its `state.json` is there, after all of its files are on the disk, and none of them
is written again. Another number of ranks can read it: each takes the coordinates that it is to hold out of the files of
all.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from curvtool.cluster.solo import Solo
from curvtool.errors import LoadError, UsageError
from curvtool.linalg.shards import Shards
from curvtool.linalg.space import VectorSpace
from curvtool.report.write import check_writable, write_atomic
from curvtool.resume.codec import decode, encode
from curvtool.resume.lock import Lock

_VERSION = f"4 of curvtool {version('curvtool')}"  # another version may take other ways
_MANIFEST = "state.json"
_NUMBERED = "[0-9]" * 6
_READ_AT_ONCE = 2**24


class StateFolder:
    """Args:
    path: the folder, which is made.
    cluster: the ranks, each of which writes its own file.
    fingerprint: what the state must belong to, by name.
    """

    def __init__(self, path: Path, cluster: Solo, fingerprint: Mapping[str, str]) -> None:
        self.path, self.cluster, self.fingerprint = path, cluster, dict(fingerprint)
        self.fell_back = False
        self._whole: list[int] = []  # the states that are to be kept, the last one first
        self._next = 1
        self._lock: Lock | None = None
        self._files: list[str] = []

    @property
    def is_empty(self) -> bool:
        """Whether nothing was saved there."""
        return not self._saved()

    def open(self, notice: Callable[[str], None] = lambda _: None) -> None:
        """Makes the folder, and keeps other processes out of it; before anything is computed.

        Args:
            notice: is told where another process has to be waited for.

        Raises:
            UsageError: CT007, it cannot be made or written to; CT066, another process writes there.
        """

        def take() -> int:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                reason = "a file of that name" if self.path.is_file() else error.strerror or str(error)
                raise UsageError(
                    "CT007",
                    f"no state can be kept in {self.path}",
                    expected="a folder that can be made and written to",
                    received=reason,
                    remedy="another folder",
                ) from error
            check_writable(self.path / _MANIFEST)
            self._lock = Lock(self.path / "lock", notice)
            return 1 + max((int(folder.name) for folder in self.path.glob(_NUMBERED)), default=0)

        self._next = self.cluster.first(take)

    def close(self) -> None:
        """Lets other processes in again."""
        if self._lock is not None:
            self._lock.release()

    def save(self, entries: Mapping[str, tuple[Any, VectorSpace | None]]) -> str | None:
        """Writes the values, each with the space of its vectors; on all ranks together.

        Returns:
            Why it was not possible: what was there before is there still. None where it was.
        """
        failure: str | None = self.cluster.first(self._lock_again)
        if failure is not None:
            return failure
        generation, self._next = self._next, self._next + 1
        folder = self._folder(generation)
        tensors: dict[str, torch.Tensor] = {}
        trees = {key: encode(value, _putter(key, space, tensors)) for key, (value, space) in entries.items()}
        own = tensors if self.cluster.is_first else {k: t for k, t in tensors.items() if k.startswith("vectors/")}
        written: list[Any] = self.cluster.gather_objects(self._write(folder, own))
        failure = next((each for each in written if isinstance(each, str)), None)
        if failure is None and self.cluster.is_first:
            manifest = {"version": _VERSION, "fingerprint": self.fingerprint, "files": written, "entries": trees}
            failure = _publish(folder / _MANIFEST, json.dumps(manifest).encode())
        failure = self.cluster.gather_objects(failure)[0]
        if failure is None:
            self._whole = [generation, *self._whole[:1]]
        if self.cluster.is_first:
            self._remove_all_others()
        return failure

    def _lock_again(self) -> str | None:
        """Takes the lock once more where the folder was deleted meanwhile; in words why it cannot be had."""
        if self._lock is None or self._lock.is_held:
            return None
        self._lock.release()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = Lock(self.path / "lock", patience=0.0)
        except (OSError, UsageError) as error:
            return error.message if isinstance(error, UsageError) else error.strerror or str(error)
        return None

    def load(self) -> dict[str, Any] | None:
        """The last entries as they were encoded, or those before where a file is damaged; None if there are none.

        Raises:
            LoadError: CT062, all are damaged; CT063, they belong to another problem.
        """
        damaged: list[str] = []
        saved = self.cluster.first(self._saved)
        for generation in saved:
            manifest, told = self._read(generation)
            told = next((each for each in self.cluster.gather_objects(told) if each), "")
            if told:
                damaged.append(f"{generation:06d}: {told}")
                continue
            self._check_fingerprint(manifest["fingerprint"])
            self._whole, self.fell_back = [generation], bool(damaged)
            if not damaged and len(saved) > 1:
                self._whole.append(saved[1])
            self._files = [str(self.path / file["name"]) for file in manifest["files"]]
            return dict(manifest["entries"])
        if damaged:
            raise LoadError(
                "CT062",
                f"the state in {self.path} is damaged",
                expected="the files as they were written",
                received="; ".join(damaged)[:300],
                remedy=f"rm -r {self.path}, and start again",
            )
        return None

    def value(self, tree: Any, space: VectorSpace | None) -> Any:
        """The value of an entry of `load`, its vectors as those of the space."""

        def get(told: Any) -> torch.Tensor | np.ndarray:
            key, lead, segments = told
            if segments is None:
                with safe_open(self._files[0], framework="pt") as file:
                    return file.get_tensor(key).numpy()
            assert space is not None
            return self._vectors(key, space, tuple(segments)).view(*lead, space.size)

        return decode(tree, get)

    def _vectors(self, key: str, space: VectorSpace, segments: tuple[int, ...]) -> torch.Tensor:
        """(n, size): the coordinates of this rank out of the files of all."""
        shards = Shards(segments, len(self._files))
        found: torch.Tensor | None = None
        for rank, name in enumerate(self._files):
            with safe_open(name, framework="pt") as file:
                held = file.get_slice(key)
                if found is None:
                    dtype = file.get_tensor(key)[:, :0].dtype
                    found = torch.empty(held.get_shape()[0], space.size, dtype=dtype)
                start = 0
                for columns in shards.columns(rank):
                    place = 0
                    for own in space.columns:
                        low, high = max(columns.start, own.start), min(columns.stop, own.stop)
                        if low < high:
                            piece = held[:, start + low - columns.start : start + high - columns.start]
                            found[:, place + low - own.start : place + high - own.start] = piece
                        place += len(own)
                    start += len(columns)
        assert found is not None
        return found.to(space.device)

    def _folder(self, generation: int) -> Path:
        return self.path / f"{generation:06d}"

    def _saved(self) -> list[int]:
        """The numbers of the states, the last one first; one that was being written does not count."""
        return sorted((int(each.parent.name) for each in self.path.glob(f"{_NUMBERED}/{_MANIFEST}")), reverse=True)

    def _read(self, generation: int) -> tuple[dict[str, Any], str]:
        """What was written down of a state; and in words what is wrong with it, the ranks sharing its files."""
        try:
            manifest = json.loads((self._folder(generation) / _MANIFEST).read_bytes())
            if manifest["version"] != _VERSION:
                return {}, f"written by another version of curvtool ({manifest['version']} instead of {_VERSION})"
            files = manifest["files"]
            for number in self.cluster.share(len(files)):
                path = self.path / files[number]["name"]
                if path.stat().st_size != files[number]["size"] or _checksum(path) != files[number]["crc32"]:
                    return {}, f"{path.name} is cut short or changed"
        except (OSError, ValueError, KeyError, TypeError) as error:
            return {}, f"{_MANIFEST}: {error}"
        return manifest, ""

    def _write(self, folder: Path, tensors: dict[str, torch.Tensor]) -> Any:
        """What is written down of this rank's file: its name, size and checksum; or in words why there is none."""
        path = folder / f"rank-{self.cluster.rank}-of-{self.cluster.size}.safetensors"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            save_file(tensors, path)
            with path.open("rb+") as file:
                os.fsync(file.fileno())
            return {"name": f"{folder.name}/{path.name}", "size": path.stat().st_size, "crc32": _checksum(path)}
        except (OSError, SafetensorError) as error:
            return (str(error).strip().splitlines() or [type(error).__name__])[0]

    def _check_fingerprint(self, found: Mapping[str, str]) -> None:
        different = [name for name in self.fingerprint if found.get(name) != self.fingerprint[name]]
        if different:
            name = different[0]
            raise LoadError(
                "CT063",
                f"the state in {self.path} belongs to another run",
                expected=f"{name} = {self.fingerprint[name]}",
                received=f"{name} = {found.get(name)}"
                + (f", and {len(different) - 1} more differ" if len(different) > 1 else ""),
                remedy="the same command as before; or another folder",
            )

    def _remove_all_others(self) -> None:
        for folder in self.path.glob(_NUMBERED):
            if int(folder.name) not in self._whole:
                with contextlib.suppress(OSError):  # without what makes it count first, should this be stopped
                    (folder / _MANIFEST).unlink(missing_ok=True)
                    shutil.rmtree(folder)


def _publish(path: Path, manifest: bytes) -> str | None:
    try:
        write_atomic(path, manifest)
    except UsageError as error:
        return error.received
    return None


def _putter(key: str, space: VectorSpace | None, tensors: dict[str, torch.Tensor]) -> Any:
    def put(value: torch.Tensor | np.ndarray) -> list[Any]:
        kind = "arrays" if isinstance(value, np.ndarray) else "vectors"
        name = f"{kind}/{key}/{len(tensors)}"
        if isinstance(value, np.ndarray):
            tensors[name] = torch.from_numpy(np.array(value, order="C"))  # a copy: the owner goes on
            return [name, None, None]
        assert space is not None, f"vectors of no space in {key}"
        tensors[name] = value.detach().reshape(-1, space.size).to("cpu").contiguous().clone()
        return [name, list(value.shape[:-1]), list(space.segments)]

    return put


def _checksum(path: Path) -> int:
    total = 0
    with path.open("rb") as file:
        while piece := file.read(_READ_AT_ONCE):
            total = zlib.crc32(piece, total)
    return total
