"""The ranks of listed eigenvalues: how far out the eigenvalue of a rank may lie, and what that says of two lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from curvtool.report.record import Record

if TYPE_CHECKING:
    from curvtool.report.numbers import ComparedValue

End = Literal["largest", "smallest", "magnitude"]


class Rank(Record):
    """Which list an eigenvalue stands in, and how far out the eigenvalue of its rank may lie.

    A list may lack an eigenvalue; the value at a rank is then that of a later one. It never lies farther out than the
    eigenvalue of that rank (Cauchy's interlacing theorem), but for its error.
    """

    end: End = Field(description="of the spectrum, from which the ranks count")
    limit: float = Field(
        description="the eigenvalue of this rank lies no farther out: the value with its error, or what the "
        "certificate leaves open; without a certificate the value before it, as if one were missed at most, and the "
        "first within the tolerance. Of `smallest` with the other sign, of `magnitude` the magnitude"
    )
    apart: float = Field(
        default=0.0,
        description="nearer than that two eigenvalues may be listed as one, now the one, now the other: without a "
        "certificate the tolerance",
    )


def outward(value: float, end: End) -> float:
    """What falls along the list."""
    return {"largest": value, "smallest": -value, "magnitude": abs(value)}[end]


def may_be_the_same(
    first: ComparedValue, other: ComparedValue, firsts: Sequence[ComparedValue], others: Sequence[ComparedValue]
) -> bool:
    """Whether values of a rank that lie apart may be two eigenvalues of one matrix, of which one list lacks the outer.

    Then the inner one's list leaves the outer one open, and the outer one's list goes on with the inner value, or ends
    before it, or lacks it too, where the two are a close pair that the searches may have seen as one.

    Args:
        first: a value of the first list.
        other: the other list's at the same rank.
        firsts: the whole first list.
        others: the other.
    """
    if first.rank is None or other.rank is None:
        return False
    end = first.rank.end
    inner, outer, beside = first, other, others
    if outward(first.value, end) > outward(other.value, end):
        inner, outer, beside = other, first, firsts
    if inner.rank is None or outward(outer.value, end) - outer.error > inner.rank.limit:
        return False
    if abs(outer.value - inner.value) <= inner.rank.apart:
        return True
    last = min(outward(each.value, end) + each.error for each in beside)
    is_past = outward(inner.value, end) - inner.error <= last
    return is_past or any(abs(each.value - inner.value) <= each.error + inner.error for each in beside)
