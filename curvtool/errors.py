"""One tree of errors: each carries a code, an exit status, what was expected, what came, and the remedy."""

from __future__ import annotations

from typing import Any

EXIT_OK = 0
EXIT_BUG = 1
EXIT_USAGE = 2
EXIT_LOAD = 3
EXIT_NOT_CONVERGED = 4
EXIT_DERIVATIVE = 5
EXIT_RANK_LOST = 70
EXIT_RESUMABLE = 75
EXIT_INTERRUPTED = 130
EXIT_PIPE = 141  # as a shell tells of SIGPIPE


class CurvtoolError(Exception):
    """A mistake or an impossible request, told so that the user can mend it.

    Args:
        code: the stable identifier, as `CT012`.
        message: one sentence that says what is wrong.
        expected: what the tool looked for.
        received: what it found.
        remedy: what to type or change.
    """

    exit_status = EXIT_BUG

    def __init__(self, code: str, message: str, *, expected: str = "", received: str = "", remedy: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.expected = expected
        self.received = received
        self.remedy = remedy

    @property
    def words(self) -> tuple[str, str, str, str]:
        """Message, what was expected, what came, and the remedy."""
        return self.message, self.expected, self.received, self.remedy

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.code, *self.words))

    def lines(self) -> list[str]:
        """The message, what was expected, what came and the remedy, one a line."""
        rows = [self.message]
        if self.expected:
            rows.append(f"expected: {self.expected}")
        if self.received:
            rows.append(f"received: {self.received}")
        if self.remedy:
            rows.append(f"try: {self.remedy}")
        return rows

    def __str__(self) -> str:
        return "\n".join([f"[{self.code}] {self.message}", *(f"  {row}" for row in self.lines()[1:])])


def _rebuild(
    kind: type[CurvtoolError], code: str, message: str, expected: str, received: str, remedy: str
) -> CurvtoolError:
    return kind(code, message, expected=expected, received=received, remedy=remedy)


def to_data(error: CurvtoolError) -> list[str]:
    """The error as JSON can hold it."""
    return [type(error).__name__, error.code, *error.words]


def from_data(told: list[str]) -> CurvtoolError:
    """The error that `to_data` told of."""
    name, code, *words = told
    return _rebuild(globals()[name], code, *words)


class UsageError(CurvtoolError):
    """CT001-CT009: a flag, a variable or a configuration key that makes no sense (exit 2)."""

    exit_status = EXIT_USAGE


class LoadError(CurvtoolError):
    """CT010-CT039: model or data cannot be loaded, do not fit, or give a loss that is not finite (exit 3)."""

    exit_status = EXIT_LOAD


class OutOfMemory(LoadError):
    """CT040: the device's or the machine's memory does not suffice (exit 3)."""


class NotConverged(CurvtoolError):
    """CT045: with `--strict`, a solver that did not converge or an interval that was not reached (exit 4)."""

    exit_status = EXIT_NOT_CONVERGED


class DerivativeError(CurvtoolError):
    """CT050-CT059: the model has an operation without the derivative that is needed (exit 5)."""

    exit_status = EXIT_DERIVATIVE


class RankLost(CurvtoolError):
    """CT060-CT061: another rank of the group failed, went away or hangs (exit 70)."""

    exit_status = EXIT_RANK_LOST


class StopRequested(KeyboardInterrupt):
    """A signal came that asks for an end between two products."""


class Interrupted(Exception):
    """An estimator was stopped on the way; what it had computed so far travels in `partial`.

    Args:
        partial: the estimator's result as it stood, or None where there was nothing yet.
        cause: what stopped it: a `CurvtoolError` or a `KeyboardInterrupt`.
    """

    def __init__(self, partial: Any, cause: BaseException) -> None:
        super().__init__(str(cause))
        self.partial = partial
        self.cause = cause


STOPPING = (CurvtoolError, KeyboardInterrupt, MemoryError, RuntimeError)  # of which `cause_of` lets bugs pass


def is_out_of_memory(error: BaseException) -> bool:
    """CUDA's error is a type of its own; the CPU allocator's is told by its words alone."""
    told = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and told)


def cause_of(error: BaseException) -> BaseException:
    """What stopped an estimator, in words where it is memory; another `RuntimeError` is a bug, and raised again."""
    if isinstance(error, (CurvtoolError, KeyboardInterrupt)):
        return error
    if is_out_of_memory(error):
        return out_of_memory(error)
    raise error


def out_of_memory(error: BaseException) -> OutOfMemory:
    """CT040 for an allocation that failed outside of a product."""
    return OutOfMemory(
        "CT040",
        "out of memory",
        expected="vectors and graphs to fit what is left",
        received=(str(error).strip().splitlines() or ["an allocation that failed"])[0][-200:],
        remedy="a smaller --memory-budget, or a smaller --batch-size",
    )


def not_finite(where: str) -> DerivativeError:
    """CT054: a product came out as NaN or infinity though the loss and its gradient are finite."""
    return DerivativeError(
        "CT054",
        f"{where} is not finite",
        expected="finite products with the Hessian",
        received="NaN or infinity, though the loss and its gradient are finite",
        remedy="look for square roots, norms or divisions at 0 in the model; --dtype float64 helps against overflow; "
        "--hvp finite-difference takes the Hessian's products from gradients, approximate",
    )


def not_in_range(where: str, size: float, least: float, most: float) -> DerivativeError:
    """CT054: a product is so small or so large that its square is 0 or infinite, and no error of it would be right."""
    return DerivativeError(
        "CT054",
        f"{where} is too {'small' if size < 1 else 'large'} to compute with",
        expected=f"magnitudes from {least:g} to {most:g}",
        received=f"{size:.3g}",
        remedy=f"-L FILE with a loss {'larger' if size < 1 else 'smaller'} by a known factor; all that is computed is "
        "in proportion to it",
    )


_LISTED = 12


def suggest(word: str, known: list[str] | tuple[str, ...]) -> str:
    """`did you mean 'x'?` where a known word is near, else the list of the known words."""
    import difflib

    # a shared ending alone makes files no more alike
    ending = "." + word.rpartition(".")[2] if "." in word else ""
    ending = ending if any(name.endswith(ending) for name in known) else ""
    bare = {name.removesuffix(ending): name for name in known}
    near = [bare[name] for name in difflib.get_close_matches(word.removesuffix(ending), bare, n=3, cutoff=0.6)]
    if near:
        return "did you mean " + " or ".join(repr(name) for name in near) + "?"
    listed = ", ".join(known[:_LISTED]) + (f", … ({len(known)} in all)" if len(known) > _LISTED else "")
    return f"one of {listed}"
