"""What a run measured and the next one need not measure again, in the user's cache folder.

A preflight and a comparison of product ways depend on the model, its weights and code, the data, the settings and the
machine. An entry is found by a digest of what is known of them. Not all is known of code, so that a preflight is used
only where a product on a few samples is the same again (`operators/witness.py`), and the comparison only beside it.
An entry is data alone (`resume/codec.py`), with a checksum; one that cannot be read is measured again. Several ranks
always measure.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from curvtool.config.schema import RunConfig
from curvtool.device import driver, name_of
from curvtool.errors import UsageError
from curvtool.report.write import write_atomic
from curvtool.resume.codec import decode, encode
from curvtool.resume.identity import files_of, weights_of
from curvtool.session.load import Loaded

MOST_ENTRIES = 2000  # of about a kilobyte; the oldest ones go first
_INSTALLED = {"site-packages", "dist-packages"}
_PACKAGE = Path(__file__).resolve().parent.parent


def folder() -> Path:
    """The user's cache folder of this tool, by the system's custom (`XDG_CACHE_HOME` on Linux)."""
    from platformdirs import user_cache_path

    return user_cache_path("curvtool", appauthor=False) / "measured"


class Cache:
    """Entries of one loaded problem.

    Args:
        path: the folder; None keeps nothing.
        facts: what the measurements depend on, by name.

    Attributes:
        used: the names of the entries that took the place of a measurement.
    """

    def __init__(self, path: Path | None, facts: dict[str, str] | None = None) -> None:
        self.path, self.facts, self.used = path, facts or {}, list[str]()

    @classmethod
    def of(cls, configs: Sequence[RunConfig], loaded: Loaded, num_ranks: int) -> Cache:
        """That of a run; one that keeps nothing with `--no-cache`, on several ranks, for a check, without a loss, or
        where something of the model cannot be told."""
        kinds = [config.analysis for config in configs]
        has_use = any(kind.needs_loss for kind in kinds) and not any(kind.measures_anew for kind in kinds)
        if not has_use or not configs[0].compute.cache or num_ranks > 1:
            return cls(None)
        try:
            return cls(folder(), facts_of(configs[0], loaded))
        except Exception:  # no home; or a user's own `repr`, module or tensor, which may fail in any way
            return cls(None)

    def find(self, name: str) -> Any:
        """The entry of this name, which differs for everything that is measured; None where there is none, or it is
        damaged."""
        if self.path is None:
            return None
        path = self._entry_path(name)
        try:
            found = _read(path)
        except (OSError, ValueError, TypeError, LookupError, AttributeError, ImportError, RecursionError):
            return None
        with suppress(OSError):
            os.utime(path)  # what is used stays
        return found

    def keep(self, name: str, measured: Any) -> None:
        """For later runs. A folder that cannot be written to costs them a few seconds, and is not worth a message."""
        if self.path is None:
            return
        with suppress(OSError, UsageError):
            self.path.mkdir(parents=True, exist_ok=True)
            text = json.dumps(encode(measured, _refuse_tensors))
            path = self._entry_path(name)
            write_atomic(path, json.dumps({"measured": text, "sha256": _sum_of(path, text)}).encode())
            entries = sorted(self.path.glob("*.json"), key=lambda each: each.stat().st_mtime)
            for old in entries[:-MOST_ENTRIES]:
                old.unlink(missing_ok=True)

    def _entry_path(self, name: str) -> Path:
        assert self.path is not None
        return self.path / f"{_digest({**self.facts, 'entry': name})}.json"


def facts_of(config: RunConfig, loaded: Loaded) -> dict[str, str]:
    """What a measurement depends on: settings, weights, data, code and machine."""
    problem = loaded.problem
    settings = {
        f"{section}.{name}": repr(value)
        for section in ("model", "data", "loss", "params", "compute")
        for name, value in vars(getattr(config, section)).items()
    }
    return {
        **settings,
        **files_of([config]),
        "checkpoint": loaded.checkpoint_sha256,
        "data": problem.data.fingerprint(),
        **weights_of(problem),
        "parameters": repr([(name, tuple(p.shape), str(p.dtype)) for name, p in problem.parameters.items()]),
        "model": _digest({"text": repr(problem.model)}),
        "code": code_of(_classes_of(problem.model, problem.loss)),
        "versions": f"{sys.version} torch {torch.__version__} numpy {np.__version__}",
        "device": f"{problem.device} {name_of(problem.device)} {driver(problem.device)}",
        "processor": f"{torch.backends.cpu.get_cpu_capability()} {_processor()}",
        "threads": str(torch.get_num_threads()),
    }  # fmt: skip


def scale_of(budget: int) -> int:
    """A memory budget as far as it decides what is measured: free memory is never twice the same."""
    return int(math.log2(max(budget, 1)))


def code_of(classes: Iterable[type]) -> str:
    """A digest of the source files that a model can depend on: of the user's by their contents, of this tool's and of
    installed packages by size and time of change.

    The user's are all that were imported from outside the standard library and site-packages; of the installed
    packages those count that define a class of the model. What code reads or imports later is not seen.
    """
    python = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")}
    packages = {each.__module__.partition(".")[0] for each in classes} - {"torch", "builtins"}
    installed, own = set(_PACKAGE.rglob("*.py")), set[Path]()
    for name, module in list(sys.modules.items()):
        path = _source_of(module)
        if path is None or _PACKAGE in path.parents:
            continue
        if _INSTALLED & set(path.parts):
            if name.partition(".")[0] in packages:
                installed.add(path)
        elif not any(each in path.parents for each in python):
            own.add(path)
    stamps = {str(path): path.stat() for path in sorted(installed)}
    return _digest(
        {path: f"{stamp.st_size} {stamp.st_mtime_ns}" for path, stamp in stamps.items()}
        | {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(own)}
    )


def _processor() -> str:
    """What the processor calls itself; the platform's word where it does not."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return platform.processor()


def _source_of(module: ModuleType | None) -> Path | None:
    text = getattr(module, "__file__", None)
    if not isinstance(text, str):
        return None
    path = Path(text).resolve()
    return path if path.is_file() else None


def _classes_of(*found: Any) -> set[type]:
    return {
        base
        for each in found
        for module in (each.modules() if hasattr(each, "modules") else [each])
        for base in type(module).__mro__
    }


def _digest(facts: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _sum_of(path: Path, text: str) -> str:
    """A checksum; an entry under another name does not pass."""
    return hashlib.sha256(f"{path.name}\n{text}".encode()).hexdigest()


def _refuse_tensors(_: Any) -> Any:
    raise TypeError("a tensor in what was measured")


def _read(path: Path) -> Any:
    whole = json.loads(path.read_text())
    text = whole["measured"]
    if _sum_of(path, text) != whole["sha256"]:
        raise ValueError("damaged")
    return decode(json.loads(text), _refuse_tensors)
