"""What an estimator tells while it runs, and what it is given back after it was stopped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from curvtool.linalg.space import VectorSpace
from curvtool.operators.base import LinearOperator

Result = TypeVar("Result")


class Resumable(Protocol):
    """What can be put back to where it was.

    A state holds numbers, words, lists, NumPy arrays, and as torch tensors vectors of the operator's space.
    """

    def state(self) -> dict[str, Any]:
        """All that the rest of the work depends on, as it stands whenever `advance` is called."""

    def restore(self, state: dict[str, Any]) -> None:
        """Puts it back."""


class Ledger:
    """What a run remembers, by name, so that one that was stopped goes on: this one remembers nothing.

    Names are explicit. Of the same name within the same result the first, second, ... are told apart. On several ranks
    an estimator calls each of these alike on all of them.
    """

    def remembered(
        self,
        name: str,
        operator: LinearOperator | None,
        make: Callable[[], Result],
        space: VectorSpace | None = None,
    ) -> Result:
        """What `make()` returns; or what it returned before the run was stopped.

        Args:
            name: what it is.
            operator: whose products it takes, and whose space its vectors belong to.
            make: makes it.
            space: of its vectors, where there is no operator.
        """
        return make()

    def resume(self, name: str, operator: LinearOperator | None, owner: Resumable) -> None:
        """The owner's work starts: puts back what it had when the run was stopped, and the cost of that.

        Args:
            name: what it is.
            operator: whose products it takes, and whose space its vectors belong to.
            owner: what is put back, and asked for its state from now on.
        """

    def chosen(self, name: str, choose: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What `choose()` returns, or returned at its first use in the run: of a choice that several analyses share.

        Args:
            name: what was chosen.
            choose: chooses: numbers and words alone.
        """
        return choose()


class Observer:
    """Hears of progress, and shows none; a terminal's bar overrides what it needs.

    Attributes:
        ledger: what is remembered of the run.
    """

    ledger = Ledger()

    def begin(self, task: str, total: float | None = None) -> None:
        """A task starts; `total` is its number of data passes where that is known."""

    def advance(self, done: float, estimate: str, remaining: float | None = None) -> None:
        """`done` passes are through; `estimate`: the number so far with its error; `remaining`: passes expected.

        Raises:
            KeyboardInterrupt: it is time to stop.
        """

    def notice(self, text: str) -> None:
        """Something that the user should know, once."""

    def alarm(self, text: str) -> None:
        """Something that went wrong beside the numbers: it is shown where notices are not."""
        self.notice(text)


SILENT = Observer()
