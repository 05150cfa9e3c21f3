"""Numbers as text: no more digits than their error allows."""

from __future__ import annotations

import math


def number(value: float | None, digits: int = 4) -> str:
    """So many significant digits; `-` for None."""
    if value is None:
        return "-"
    if value and (abs(value) >= 10 ** max(digits, 5) or abs(value) < 1e-3):
        return f"{value:.{digits - 1}e}"
    text = f"{value:#.{digits}g}"
    return text.removesuffix(".") if "e" not in text else f"{value:.{digits - 1}e}"


def with_error(value: float, error: float) -> str:
    """The value to the second digit of its error, between 3 and 10 significant digits."""
    if not value:
        return "0"
    digits = 6 if not error else math.ceil(math.log10(abs(value) / error)) + 2
    return number(value, min(max(digits, 3), 10))


def to_digits_of(value: float, error: float) -> str:
    """The value to the second digit of an error that may be as large as itself."""
    if not value or not error or not 1e-3 < abs(error) < 1e4:
        return number(value)
    return f"{value:.{max(1 - math.floor(math.log10(error)), 0)}f}"


def percent(share: float | None, digits: int = 2) -> str:
    """`100 %`, `0.52 %`; `-` for None."""
    if share is None:
        return "-"
    value = float(f"{100 * share:.{digits}g}")
    return f"{value:g} %"


def count(value: int) -> str:
    """Thousands separated."""
    return f"{value:,}"


def bytes_text(value: float) -> str:
    """In binary units."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def seconds_text(value: float) -> str:
    """In seconds, minutes or hours."""
    if value < 60:
        return f"{value:.2g} s" if value < 10 else f"{value:.0f} s"
    if value < 3600:
        return f"{value // 60:.0f} min {value % 60:.0f} s"
    return f"{value // 3600:.0f} h {value % 3600 // 60:.0f} min"


def percents(low: float, high: float, digits: int = 3) -> str:
    """`1.45 % to 92.4 %`; `at most 3 %` from zero on, `at least 90 %` up to all; one number where both are the same."""
    if low == high:
        return percent(low, digits)
    if low <= 0.0 and high >= 1.0:
        return "0 % to 100 %"
    if low <= 0.0:
        return f"at most {percent(high, digits)}"
    return f"at least {percent(low, digits)}" if high >= 1.0 else f"{percent(low, digits)} to {percent(high, digits)}"
