"""Counts in words, and text of others that is safe to print."""

from __future__ import annotations

import re

_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters but tab and newline: escape sequences begin with them
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks that turn the direction of what is read
    "\ud800-\udfff]"  # halves of a pair, as a file's name that is no UTF-8 has
)


def printable(text: str) -> str:
    """Text from a file or its name without what would move a terminal's cursor, hide or turn around its text."""
    return _UNPRINTABLE.sub("", text)


def counted(value: float, noun: str, spec: str = ",") -> str:
    """`1 sample`, `1,797 samples`, `2 passes`, `2 copies`.

    Args:
        value: the number.
        noun: in the singular; its last word takes the plural.
        spec: how the number is formatted.
    """
    number = f"{value:{spec}}"
    return f"{number} {noun if number == '1' else plural(noun)}"


def plural(noun: str) -> str:
    """The plural of a regular noun."""
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"
