"""A group of settings, and what can be asked of its fields. Nothing heavy is imported: `--help` answers at once."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

from curvtool.errors import UsageError, suggest
from curvtool.vocabulary import SYNONYMS


def setting(
    default: Any,
    help: str,
    *flags: str,
    minimum: float | None = None,
    below: float | None = None,
    metavar: str | None = None,
) -> Any:
    """A field with its help and its flags (`--name-with-dashes` if none).

    Args:
        default: its value where none is given.
        help: what it is, for `--help`.
        flags: as a user types them.
        minimum: its least value.
        below: what its value is less than.
        metavar: the word for its value in the help.
    """
    metadata = {"help": help, "flags": flags, "minimum": minimum, "below": below, "metavar": metavar}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Section:
    """A group of settings; checks choices and least values when it is made."""

    def __post_init__(self) -> None:
        hints = type_hints(type(self))
        for item in fields(self):
            value, flag = getattr(self, item.name), flags_of(item)[0]
            choices = choices_of(hints[item.name])
            if choices and value is not None and value not in choices:
                raise UsageError(
                    "CT001",
                    f"unknown value for {flag}",
                    expected=", ".join(map(str, choices)),
                    received=repr(value),
                    remedy=_near(flag, str(value), [str(choice) for choice in choices]),
                )
            if isinstance(value, float) and math.isnan(value):
                raise UsageError(
                    "CT001", f"{flag} is not a number", expected="a number", received="nan", remedy=f"leave out {flag}"
                )
            minimum = item.metadata.get("minimum")
            if minimum is not None and value is not None and not value >= minimum:
                raise UsageError(
                    "CT001",
                    f"{flag} is too small",
                    expected=f"{minimum:g} or more",
                    received=str(value),
                    remedy=f"{flag} {_usual(item.default, minimum):g}",
                )
            below = item.metadata.get("below")
            if below is not None and value is not None and not value < below:
                raise UsageError(
                    "CT001",
                    f"{flag} is too large",
                    expected=f"below {below:g}",
                    received=str(value),
                    remedy=f"{flag} {item.default or 0.1 * below:g}",
                )


@dataclass(frozen=True)
class AnalysisSettings(Section):
    """The settings of one kind of analysis; the docstring of a subclass is the help of its command.

    Attributes:
        kind: its name, as a user types it.
        needs_loss: whether it is of a loss's matrix, and not of the model alone.
        measures_anew: whether it leaves aside what earlier runs measured, as a check does.
    """

    kind: ClassVar[str]
    needs_loss: ClassVar[bool] = True
    measures_anew: ClassVar[bool] = False


def _usual(default: object, minimum: float) -> float:
    """A value that is likely to be meant: the default, where it is a number that is large enough."""
    is_usual = isinstance(default, int | float) and not isinstance(default, bool) and default >= minimum
    return float(default) if is_usual else minimum  # type: ignore[arg-type]


def _near(flag: str, value: str, choices: list[str]) -> str:
    """What may have been meant, by its name or by another word for it."""
    meant = SYNONYMS.get(value.lower().replace("_", "-"))
    return f"{flag} {meant}" if meant in choices else suggest(value, choices)


def refuse_unless(fits: bool, what: str, expected: str, received: object, remedy: str, code: str = "CT003") -> None:
    """Raises CT003 for settings that exclude each other, or another code, before anything is loaded."""
    if not fits:
        raise UsageError(code, what, expected=expected, received=str(received), remedy=remedy)


def check_safetensors(path: str | None, what: str, remedy: str) -> None:
    """Raises CT005 for a file that is to be written and has another suffix."""
    if path is not None and not path.endswith(".safetensors"):
        raise UsageError("CT005", f"no such format for {what}", expected=".safetensors", received=path, remedy=remedy)


def type_hints(cls: type) -> dict[str, Any]:
    """The resolved annotations of a section."""
    return get_type_hints(cls)


def flags_of(item: Any) -> tuple[str, ...]:
    """The flags of a field."""
    return item.metadata.get("flags") or ("--" + item.name.replace("_", "-"),)


def plain_type(annotation: Any) -> Any:
    """The annotation without `| None`."""
    inner = [a for a in get_args(annotation) if a is not type(None)]
    return inner[0] if type(None) in get_args(annotation) and len(inner) == 1 else annotation


def choices_of(annotation: Any) -> tuple[Any, ...]:
    """The values of a Literal, or none."""
    plain = plain_type(annotation)
    return get_args(plain) if get_origin(plain) is Literal else ()


def numbers_of(text: str | None, flag: str) -> tuple[float, ...] | None:
    """`0.5` or `0.485,0.456,0.406` as one or three numbers.

    Raises:
        UsageError: CT001, no such numbers.
    """
    if text is None:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) not in {1, 3} or not all(math.isfinite(value) for value in values):
        raise UsageError(
            "CT001",
            f"{flag} takes one number or three",
            expected="a number a channel, with commas between them",
            received=text,
            remedy=f"{flag} 0.485,0.456,0.406",
        )
    return values


def parse_bytes(text: str) -> int:
    """`8GiB`, `500MB`, `1e9` or a plain number of bytes.

    Raises:
        UsageError: CT001, not a size.
    """
    match = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*([kmgt]?)(i?)b?\s*", str(text).lower())
    try:
        number = float(match[1]) if match else -1.0
    except ValueError:
        number = -1.0
    if match is None or not 0 <= number < math.inf:
        raise UsageError(
            "CT001",
            "no such size",
            expected="a number with a unit",
            received=str(text),
            remedy="--memory-budget 8GiB",
        )
    power = " kmgt".index(match[2]) if match[2] else 0
    return int(number * (1024 if match[3] else 1000) ** power)
