"""Counts in words."""

from __future__ import annotations


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
