"""What an estimator tells while it runs: progress, its current estimate and notices."""

from __future__ import annotations


class Observer:
    """Hears nothing; a terminal's progress bar overrides what it wants to show."""

    def begin(self, task: str, total: float | None = None) -> None:
        """A task starts; `total` is its number of data passes where that is known."""

    def advance(self, done: float, estimate: str, remaining: float | None = None) -> None:
        """`done` passes are through; `estimate`: the number so far with its error; `remaining`: passes expected."""

    def notice(self, text: str) -> None:
        """Something that the user should know, once."""


SILENT = Observer()
