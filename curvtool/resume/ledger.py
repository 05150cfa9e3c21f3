"""What a run remembers: what is finished, and how far what runs has come."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import torch

from curvtool.cluster.solo import Solo
from curvtool.errors import LoadError, StopRequested, UsageError
from curvtool.estimators.cost import Meter
from curvtool.estimators.observer import Ledger, Observer, Resumable
from curvtool.linalg.space import VectorSpace
from curvtool.operators.base import LinearOperator
from curvtool.resume.codec import copied
from curvtool.resume.folder import StateFolder

Result = TypeVar("Result")
_CHOICES = "choices"  # their key among the entries; the keys of all others begin with a slash


@dataclass(frozen=True)
class Keeping:
    """Where and when a run saves its state.

    Attributes:
        path: the folder.
        go_on: whether to go on from a state that is there.
        seconds: between two times that it is saved.
    """

    path: Path
    go_on: bool = False
    seconds: float = 600.0


class _Entry:
    """A result, or something that runs and is asked for its state."""

    def __init__(
        self, operator: LinearOperator | None, owner: Resumable | None = None, space: VectorSpace | None = None
    ) -> None:
        self.operator = operator
        self.space = space if operator is None else operator.space
        self.owner, self.result = owner, None
        self.matrix = _matrix(operator)
        self.meter = None if operator is None else Meter(operator)
        self.cost: list[float] | None = None

    def value(self, cost: list[float]) -> dict[str, Any]:
        """As it is written."""
        held = self.result if self.owner is None else self.owner.state()
        return {"cost": cost, "matrix": self.matrix, "value": held}


class KeptLedger(Ledger):
    """Keeps what it is told in a folder, where there is one, and stops the run when it is asked to.

    A run that goes on does the same again from its beginning: what was finished is given to it, and what was on its way
    is put back, so that it comes out as it would have. Entries have names, within the name of the result that they are
    part of. A replay that does not meet an entry, or meets it with another matrix, has taken another way than the run
    before: it ends with an error, and the state stays as it was.

    Args:
        notice: is told what happens to the state.
        alarm: is told where it cannot be saved.
        cluster: the ranks, which stop and save at the same product.
        was_asked: whether a signal came to this rank.
        seconds: between two times that the state is saved.
    """

    def __init__(
        self,
        notice: Callable[[str], None],
        alarm: Callable[[str], None],
        cluster: Solo,
        was_asked: Callable[[], bool] = lambda: False,
        seconds: float = 600.0,
    ) -> None:
        self.notice, self.alarm = notice, alarm
        self.cluster, self.was_asked, self.seconds = cluster, was_asked, seconds
        self.folder: StateFolder | None = None
        self._before: dict[str, Any] = {}  # entries of the run that was stopped, still encoded, until they are met
        self._entries: dict[str, _Entry] = {}
        self._choices: dict[str, dict[str, Any]] = {}
        self._scopes: list[tuple[str, Counter[str]]] = [("", Counter())]  # what is being made, and the names within
        self._saved_at = time.monotonic()

    def keep_in(self, folder: StateFolder, go_on: bool) -> None:
        """Saves to that folder from now on.

        Args:
            folder: where.
            go_on: whether to go on from what is there.

        Raises:
            LoadError: CT062, CT063, what is there is damaged, or of another problem.
            UsageError: CT007, there is a state, and it is not to go on.
        """
        if not go_on and not folder.is_empty:
            raise UsageError(
                "CT007",
                f"there is a state in {folder.path} already",
                expected="an empty folder, or none",
                received="the state of another run, or of this one",
                remedy=f"--resume {folder.path} to go on from it, or another folder",
            )
        folder.open(self.notice)
        self.folder = folder
        found = folder.load() if go_on else None
        if found is not None:
            self._before = found
            self._choices = folder.value(self._before.pop(_CHOICES), None)
            before = " (the last one is damaged: the one before it)" if folder.fell_back else ""
            self.notice(f"going on from the state in {folder.path}{before}")
        elif go_on:
            self.notice(f"no state in {folder.path} yet: starting afresh")

    def close(self) -> None:
        """Leaves the folder to others."""
        if self.folder is not None:
            self.folder.close()

    @property
    def has_saved(self) -> bool:
        """Whether there is a state to go on from."""
        return self.folder is not None and not self.folder.is_empty

    def finish(self) -> None:
        """The run is through: all that the run before had was met, and is saved.

        Raises:
            LoadError: CT062, some of it was not met.
        """
        self._check_met("")
        self.save()

    def remembered(
        self,
        name: str,
        operator: LinearOperator | None,
        make: Callable[[], Result],
        space: VectorSpace | None = None,
    ) -> Result:
        """The saved result of the run that was stopped; else makes the result and keeps it."""
        key = self._key(name)
        entry = _Entry(operator, space=space)
        if key in self._before and self.folder is not None:
            result = self._restored(key, operator, entry)
            entry.result = copied(result)  # who asked for it may go on with its tensors in place
            entry.cost = None if entry.meter is None else _spent(entry.meter)
            self._entries[key] = entry
            return cast(Result, result)
        self._scopes.append((key, Counter()))
        try:
            made = make()
        finally:
            self._scopes.pop()
        self._check_met(key + "/")
        for inside in [each for each in self._entries if each.startswith(key + "/")]:
            del self._entries[inside]
        if self.folder is not None:  # a copy, for the caller may change its tensors in place
            entry.result = copied(made)
        entry.cost = None if entry.meter is None else _spent(entry.meter)
        self._entries[key] = entry
        return made

    def resume(self, name: str, operator: LinearOperator | None, owner: Resumable) -> None:
        """Puts the owner back to where it was."""
        key = self._key(name)
        entry = self._entries[key] = _Entry(operator, owner)
        if key in self._before and self.folder is not None:
            found = self._restored(key, operator, entry)
            try:
                owner.restore(found)
            except (ValueError, RuntimeError, LookupError, TypeError) as error:
                received = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
                raise self._other_run("vectors of the shapes that were saved", received) from error

    def chosen(self, name: str, choose: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What was chosen at its first use, by whichever analysis."""
        if name not in self._choices:
            self._choices[name] = choose()
        return self._choices[name]

    def save(self) -> None:
        """Writes the state; a failure is an alarm, and the state before stays."""
        if self.folder is None or self._before:  # nothing is overwritten before every saved entry was restored
            return
        costs = _costs(list(self._entries.values()))
        entries: dict[str, tuple[Any, VectorSpace | None]] = {
            key: (entry.value(cost), entry.space)
            for (key, entry), cost in zip(self._entries.items(), costs, strict=True)
        }
        entries[_CHOICES] = self._choices, None
        failure = self.folder.save(entries)
        self._saved_at = time.monotonic()
        if failure is not None:
            left = "no state is there" if self.folder.is_empty else "the one before is kept"
            self.alarm(f"the state could not be saved to {self.folder.path}: {failure}; {left}")

    def look(self) -> None:
        """Saves the state where it is time to, and stops the run where it was asked to; between two products.

        Raises:
            StopRequested: it was asked to.
        """
        asked, due = self.was_asked(), time.monotonic() - self._saved_at > self.seconds
        if self.cluster.size > 1:
            flags = self.cluster.sum(torch.tensor([float(asked), float(due)]))
            asked, due = bool(flags[0] > 0), bool(flags[1] > 0)
        if not asked and (not due or self.folder is None):
            return
        self.save()
        if asked:
            raise StopRequested

    def _restored(self, key: str, operator: LinearOperator | None, entry: _Entry) -> Any:
        assert self.folder is not None
        found = self.folder.value(self._before.pop(key), entry.space)
        if found["matrix"] != entry.matrix:
            raise self._other_run(f"{key[1:]} of {found['matrix']}", entry.matrix)
        if operator is not None:
            operator.credit(*found["cost"])
        return found["value"]

    def _check_met(self, within: str) -> None:
        """Every saved entry under that name must have been restored."""
        left = [key for key in self._before if key.startswith(within)]
        if left:
            raise self._other_run(f"a run with the step {', '.join(key[1:] for key in left[:3])}", "a run without it")

    def _other_run(self, expected: str, received: str) -> LoadError:
        assert self.folder is not None
        return LoadError(
            "CT063",
            f"the state in {self.folder.path} does not fit this run",
            expected=expected,
            received=received,
            remedy=f"the settings and the memory as before; or rm -r {self.folder.path}, and start again",
        )

    def _key(self, name: str) -> str:
        scope, names = self._scopes[-1]
        names[name] += 1
        return f"{scope}/{name}" + (f" ({names[name]})" if names[name] > 1 else "")


class Watched(Observer):
    """Passes on what it hears of progress, and lets the ledger look whether it is time to save or to stop.

    Args:
        inner: hears what an observer hears.
        ledger: of the run.
    """

    def __init__(self, inner: Observer, ledger: KeptLedger) -> None:
        self.inner, self.ledger = inner, ledger
        self.look = ledger.look

    def begin(self, task: str, total: float | None = None) -> None:
        """Passed on; then the ledger looks."""
        self.inner.begin(task, total)
        self.look()

    def advance(self, done: float, estimate: str, remaining: float | None = None) -> None:
        """Passed on; then the ledger looks."""
        self.inner.advance(done, estimate, remaining)
        self.look()

    def notice(self, text: str) -> None:
        """Passed on."""
        self.inner.notice(text)

    def alarm(self, text: str) -> None:
        """Passed on."""
        self.inner.alarm(text)


def _matrix(operator: LinearOperator | None) -> str:
    """Which matrix, in words."""
    if operator is None:
        return "no matrix"
    return f"{getattr(operator, 'name', type(operator).__name__)} with {operator.space.dim} rows"


def _costs(entries: list[_Entry]) -> list[list[float]]:
    """What each has cost by itself. Where one was begun while another with the same matrix was on its way, the other's
    meter ran on: what the later one took is not its own."""
    found: list[list[float]] = []
    later: dict[int, list[float]] = {}  # of every operator
    for entry in reversed(entries):
        cost = [0.0, 0.0, 0.0]
        if entry.meter is not None:
            taken = later.setdefault(id(entry.operator), [0.0, 0.0, 0.0])
            if entry.cost is not None:
                cost = entry.cost
            else:
                cost = [whole - part for whole, part in zip(_spent(entry.meter), taken, strict=True)]
            later[id(entry.operator)] = [one + other for one, other in zip(taken, cost, strict=True)]
        found.append(cost)
    return found[::-1]


def _spent(meter: Meter) -> list[float]:
    cost = meter.cost()
    return [cost.num_hvps, cost.data_passes, cost.seconds]
