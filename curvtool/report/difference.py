"""Whether two reports' numbers differ by more than their errors: the tests, and what they take back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field

from curvtool.linalg.student import quantile, two_sided
from curvtool.report.numbers import LEVEL, ComparedValue, is_layer
from curvtool.report.ranks import may_be_the_same
from curvtool.report.record import Record

_SAME_THRESHOLD = 2.0  # times: two runs of one kind measure noise that differs by less


class Difference(Record):
    """Another report's number less the first one's."""

    difference: float
    relative: float | None = Field(description="over the first one's magnitude")
    exceeds: bool = Field(description="more than the computation's errors explain")
    missed: bool = Field(
        default=False,
        description="of eigenvalues: more than the errors, but both may be of one matrix if one list lacks an "
        "eigenvalue, which no certificate excludes",
    )
    p_value: float | None = Field(
        default=None, description="two-sided, of so large a difference by the probes alone; null between bounds"
    )
    p_adjusted: float | None = Field(default=None, description="Holm's, over all such tests of the comparison")
    p_data: float | None = Field(
        default=None,
        description="two-sided, of so large a difference between independent samples of data, by Student's t, beyond "
        "what the computation's errors and the bias of an eigenvalue over small data explain; conservative where both "
        "are of the same data; null where a standard error over the data or such a bias is not known",
    )


class ComparedQuantity(Record):
    """One number in every report."""

    analysis: str = Field(description="kind, matrix and end of the spectrum")
    name: str
    values: list[ComparedValue | None] = Field(description="one a report; null where it has none")
    differences: list[Difference | None] = Field(description="of the second report and those after it to the first")


def difference_of(first: ComparedValue, other: ComparedValue) -> Difference:
    """The difference with its p-value, before the family's adjustment."""
    change = other.value - first.value
    upward = change > 0
    sides = [_side(first, upward), _side(other, not upward)]
    fixed = sum(side.fixed for side in sides)
    p_value: float | None = None
    exceeds = abs(change) > fixed
    if any(side.stderr for side in sides):
        p_value = _p_value(max(abs(change) - fixed, 0.0), sides)
        exceeds = False  # the tests' outcome is known when all are made
    p_data = _p_over_data(first, other, sides)
    relative = change / abs(first.value) if first.value else None
    unavailable = {} if relative is not None else {"relative": "the first value is zero"}
    return Difference(
        difference=change, relative=relative, exceeds=exceeds, p_value=p_value, p_data=p_data, unavailable=unavailable
    )


def look_for_missed(quantities: Sequence[ComparedQuantity]) -> None:
    """Takes back the differences that an eigenvalue which one of the lists lacks would explain (`may_be_the_same`)."""
    for analysis in dict.fromkeys(q.analysis for q in quantities):
        ranked = [q for q in quantities if q.analysis == analysis and any(v and v.rank for v in q.values)]
        for quantity in ranked:
            mates = [quantity]  # a layer's list has one value
            if not is_layer(quantity.name):
                mates = [q for q in ranked if not is_layer(q.name)]
            first = quantity.values[0]
            for place, (difference, other) in enumerate(zip(quantity.differences, quantity.values[1:], strict=True)):
                if difference is None or not difference.exceeds or not first or not other or not first.rank:
                    continue
                lists = [
                    [v for q in mates if (v := q.values[report]) and v.rank and v.rank.end == first.rank.end]
                    for report in (0, place + 1)
                ]
                difference.missed = may_be_the_same(first, other, *lists)
                difference.exceeds = not difference.missed


# Times the difference of biases where one has no interval for the population: those of eigenvalues at the edge of noise
# are 1.4 to 2 times what is estimated.
_UNTRUSTED_BIAS = 1.5


@dataclass(frozen=True)
class _Side:
    """How far a number may lie from its estimate towards the other one."""

    fixed: float  # bounds and rounding: they add up
    stderr: float  # of what is random: it adds up in quadrature
    degrees: float


def _side(value: ComparedValue, upward: bool) -> _Side:
    """The side that faces a number above, or below.

    What an interval reaches beyond its fixed part is that many standard errors: intervals of independent numbers meet
    with the root of the sum of their squares (Zou and Donner, Statistics in Medicine 27, 1693, 2008).
    """
    degrees = math.inf if value.degrees_of_freedom is None else value.degrees_of_freedom
    fixed = value.most - value.value if upward else value.value - value.least
    reach = value.high - value.most if upward else value.least - value.low
    if reach or value.stderr:  # up to the next whole one the law's own end lies anywhere: by half a step on average
        reach += value.step / 2
    if value.error_kind == "interval":
        return _Side(fixed, max(reach / quantile(LEVEL, degrees), value.stderr), degrees)
    return _Side(fixed, value.stderr, degrees)


def _p_over_data(first: ComparedValue, other: ComparedValue, sides: Sequence[_Side]) -> float | None:
    """The test of a difference beyond what the computation leaves open and what the biases of the samples explain.

    Extreme eigenvalues are biased the more, the smaller the sample. A bias is itself an estimate, so that any part of
    the difference of the two is allowed for.
    """
    if not first.data_stderr or not other.data_stderr or first.data_bias is None or other.data_bias is None:
        return None
    trusted = first.rank is None or None not in (first.population, other.population)
    expected = (other.data_bias - first.data_bias) * (1.0 if trusted else _UNTRUSTED_BIAS)
    change = other.value - first.value
    beyond = max(change - max(expected, 0.0), min(expected, 0.0) - change) - sum(side.fixed for side in sides)
    samples = [
        _Side(0.0, value.data_stderr or 0.0, math.inf if value.data_degrees is None else value.data_degrees)
        for value in (first, other)
    ]
    return _p_value(max(beyond, 0.0), [*samples, *(side for side in sides if side.stderr)])


def _p_value(change: float, sides: Sequence[_Side]) -> float:
    """Welch's test: Student's t with degrees of freedom (sum s^2)^2 / sum s^4 / degrees (Satterthwaite 1946).

    Args:
        change: the difference beyond what is fixed.
        sides: of both numbers.
    """
    spread = math.hypot(*(side.stderr for side in sides))
    if spread == 0.0:
        return 1.0 if change == 0.0 else 0.0
    doubt = sum((side.stderr / spread) ** 4 / side.degrees for side in sides)
    return two_sided(change / spread, 1 / doubt if doubt else math.inf)


def adjust(differences: Sequence[Difference]) -> None:
    """Holm's p-values, and with them which differences exceed the probes' errors."""
    tested = sorted((d for d in differences if d.p_value is not None), key=lambda d: d.p_value or 0.0)
    largest = 0.0
    for place, difference in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - place) * (difference.p_value or 0.0)))
        difference.p_adjusted = largest
        difference.exceeds = largest < LEVEL  # of the family of all tests of a comparison


def other_threshold(first: ComparedValue, other: ComparedValue) -> str | None:
    """Why two shares are of different events: between the thresholds there may be any number of eigenvalues."""
    if first.threshold is None or other.threshold is None:
        return None
    low, high = sorted((first.threshold, other.threshold))
    if high <= _SAME_THRESHOLD * low:
        return None
    return f"what is below zero by more than rounding starts at {first.threshold:.2g} and {other.threshold:.2g}"
