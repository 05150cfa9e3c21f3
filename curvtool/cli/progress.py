"""Progress on stderr: a bar with the running estimate where there is a terminal, notices always."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from curvtool.cli.interruption import raise_if_asked
from curvtool.estimators.observer import Observer

_SILENCE = 30.0  # seconds


class TerminalObserver(Observer):
    """Shows one task at a time; without a terminal only notices, and every half a minute how far it is.

    Args:
        console: stderr's.
        quiet: show nothing.
        verbose: 1: each task as a line where there is no terminal; 2 or more: each step as a line everywhere.
    """

    def __init__(self, console: Console, *, quiet: bool, verbose: int) -> None:
        self.console, self.quiet, self.verbose = console, quiet, verbose
        self.progress: Progress | None = None
        self._task: TaskID | None = None
        self._name, self._told_at = "", time.monotonic()
        if console.is_terminal and not quiet and verbose < 2:
            self.progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=20),
                TextColumn("{task.fields[estimate]}", style="dim"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=console,
                transient=True,
            )

    def __enter__(self) -> TerminalObserver:
        if self.progress is not None:
            self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.progress is not None:
            self.progress.stop()

    def begin(self, task: str, total: float | None = None) -> None:
        """A new task takes the place of the one before."""
        raise_if_asked()
        self._name = task
        if self.progress is not None:
            if self._task is not None:
                self.progress.remove_task(self._task)
            self._task = self.progress.add_task(task, total=total, estimate="")
        elif self.verbose and not self.quiet:
            self.console.print(task, style="dim", markup=False)

    def advance(self, done: float, estimate: str, remaining: float | None = None) -> None:
        """The bar's length follows what is expected to remain, so its time remaining does too."""
        raise_if_asked()
        if self.progress is not None and self._task is not None:
            total = None if remaining is None else done + remaining
            self.progress.update(self._task, completed=done, total=total, estimate=estimate)
        elif self.verbose <= 1 and not self.quiet and (now := time.monotonic()) - self._told_at > _SILENCE:
            self._told_at = now
            left = (
                "" if remaining is None else f", {remaining / (done + remaining):.0%} left" if done + remaining else ""
            )
            self.console.print(f"{self._name}: {estimate}{left}", style="dim", markup=False, highlight=False)
        elif self.verbose > 1 and not self.quiet:
            self.console.print(f"  {done:g}: {estimate}", style="dim", markup=False, highlight=False)

    def notice(self, text: str) -> None:
        """A line of its own."""
        if not self.quiet:
            self.console.print(text, style="cyan", markup=False, highlight=False)

    def alarm(self, text: str) -> None:
        """A line of its own, with `-q` too."""
        self.console.print(f"warning: {text}", style="yellow", markup=False, highlight=False)
