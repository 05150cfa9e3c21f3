"""What a report's pictures show, for whoever draws them: numbers with their errors, nothing computed anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Mark = Literal["line", "points", "bars"]


@dataclass(frozen=True)
class Series:
    """Attributes:
    name: for the legend.
    mark: how it is drawn: a line, points, or bars from zero.
    x: where the values stand, shape (n,).
    y: the values, shape (n,); None where nothing is drawn.
    low: the lower ends of their error bars (of a line's band), shape (n,); None where there are none.
    high: the upper ends.
    """

    name: str
    mark: Mark
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


@dataclass(frozen=True)
class Chart:
    """Attributes:
    title: what is shown.
    x_label: what the x axis measures, with its unit.
    y_label: likewise.
    series: what is drawn.
    caption: what the errors mean, in a sentence.
    names: the categories that stand at x = 0, 1, … in place of numbers; empty where x is a number.
    log_x: whether the x axis is logarithmic.
    log_y: whether the y axis is logarithmic; the values are positive then.
    """

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    caption: str = ""
    names: tuple[str, ...] = ()
    log_x: bool = False
    log_y: bool = False


@dataclass(frozen=True)
class Gallery:
    """Attributes:
    title: what is shown.
    labels: of each pair of images.
    images: PNG in base64, one a label.
    overlays: likewise, shown below each image.
    caption: what is seen in them.
    """

    title: str
    labels: tuple[str, ...]
    images: tuple[str, ...]
    overlays: tuple[str, ...]
    caption: str = ""


def spans_decades(values: Sequence[float]) -> bool:
    """Whether a logarithmic axis shows values better: all of them positive, over more than two decades."""
    return bool(values) and min(values) > 0 and max(values) > 100 * min(values)
