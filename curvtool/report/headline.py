"""The first number of an analysis: what `track` follows over training."""

from __future__ import annotations

from dataclasses import dataclass

from curvtool import registry
from curvtool.report.record import AnalysisRecord


@dataclass(frozen=True)
class Ratio:
    """A number over the value at which training changes.

    Attributes:
        name: as a column's header.
        tag: what a tracker calls it.
        value: the ratio, times the threshold.
        error: of it, estimated.
        threshold: above which it matters.
        setting: what was set, as the learning rate.
        edge: the headline's value at the threshold.
        edge_name: in words.
    """

    name: str
    tag: str
    value: float
    error: float
    threshold: float
    setting: float
    edge: float
    edge_name: str

    @property
    def is_above(self) -> bool:
        """Whether it lies above the threshold by more than its error."""
        return self.value - self.error > self.threshold


@dataclass(frozen=True)
class Headline:
    """Attributes:
    value: the number.
    low: lower end of its error bar.
    high: upper end.
    ratio: the number against the optimizer, where one is known.
    """

    value: float
    low: float
    high: float
    ratio: Ratio | None = None

    @property
    def error(self) -> float:
        """The longer side of the error bar."""
        return max(self.high - self.value, self.value - self.low)


def headline_of(analysis: AnalysisRecord) -> Headline | None:
    """The first number of an analysis; None where it has none."""
    first: Headline | None = registry.part(analysis.kind, "facts").headline(analysis)
    return first


def words_of(analysis: AnalysisRecord) -> str:
    """What its first number is, in words."""
    return str(registry.part(analysis.kind, "facts").words(analysis))


def name_of(analysis: AnalysisRecord) -> str:
    """The same as a column's header."""
    return str(registry.part(analysis.kind, "facts").name(analysis))


def band_of(analysis: AnalysisRecord) -> str:
    """What the error bars of its first number are, as a caption."""
    return str(registry.part(analysis.kind, "facts").BAND)
