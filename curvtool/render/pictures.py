"""Charts as PNG, SVG or PDF, by matplotlib; legible in print and without colour."""

from __future__ import annotations

import base64
import io
import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from curvtool.errors import UsageError
from curvtool.render.chart_types import Chart, Gallery, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito (2008): told apart with every kind of colour blindness
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS, _DASHES = "osD^v*", ("-", "--", "-.", ":")
_WIDTH, _HEIGHT, _DPI = 7.0, 3.6, 200  # inches; a column and a half of a paper
_STYLE: Any = {
    "font.size": 9.0, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "axes.axisbelow": True, "grid.alpha": 0.3,
    "svg.hashsalt": "curvtool", "pdf.fonttype": 42, "svg.fonttype": "none",
}  # fmt: skip
_LONG_NAME, _FEW_NAMES, _MANY_NAMES, _CAPTION = 24, 12, 40, 100
_GALLERY_HEIGHT, _MOST_IMAGES = 2.6, 10


def draw(charts: Sequence[Chart | Gallery], format: str) -> bytes:
    """One picture with a panel a chart, below each other.

    Args:
        charts: one or more.
        format: `png`, `svg` or `pdf`.

    Raises:
        UsageError: CT005, matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError(
            "CT005",
            "a picture needs matplotlib",
            expected="the extra `plot`",
            received=str(error),
            remedy="pip install 'curvtool[plot]'",
        ) from error
    with rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, sum(map(_height, charts))), layout="constrained")
        panels = figure.subfigures(len(charts), 1, squeeze=False, height_ratios=list(map(_height, charts)))
        for panel, chart in zip(panels[:, 0], charts, strict=True):
            if isinstance(chart, Gallery):
                _show(panel, chart)
            else:
                _draw(panel.subplots(), chart)
        buffer = io.BytesIO()
        dateless = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
        figure.savefig(buffer, format=format, dpi=_DPI, metadata=dateless[format])
    return buffer.getvalue()


def _show(panel: Any, gallery: Gallery) -> None:
    """Images above, what lies over them below."""
    from matplotlib.image import imread

    panel.suptitle(gallery.title, x=0.01, ha="left", fontweight="bold", fontsize=9)
    shown = min(len(gallery.labels), _MOST_IMAGES)
    grid = panel.subplots(2, shown, squeeze=False)
    for row, images in enumerate((gallery.images, gallery.overlays)):
        for axes, image in zip(grid[row], images, strict=False):
            axes.imshow(imread(io.BytesIO(base64.b64decode(image)), format="png"), interpolation="nearest")
            axes.set_axis_off()
    for axes, label in zip(grid[0], gallery.labels, strict=False):
        axes.set_title(label, fontsize=6)
    caption = "\n".join(textwrap.wrap(gallery.caption, _CAPTION))
    panel.supxlabel(caption, x=0.01, ha="left", fontsize=7.5, color="0.3")


def _height(chart: Chart | Gallery) -> float:
    """Inches: names stand below each other."""
    if isinstance(chart, Gallery):
        return _GALLERY_HEIGHT
    return _HEIGHT if len(chart.names) <= _FEW_NAMES else min(1.2 + 0.19 * len(chart.names), 20.0)


def _draw(axes: Axes, chart: Chart) -> None:
    across = len(chart.names) > _FEW_NAMES or any(len(name) > 6 for name in chart.names)  # bars to the right
    for place, series in enumerate(chart.series):
        _draw_series(axes, series, place, across, len(chart.series))
    axes.set_title(chart.title, loc="left", fontweight="bold")
    labels = (chart.y_label, chart.x_label) if across else (chart.x_label, chart.y_label)
    axes.set_xlabel(labels[0])
    caption = "\n".join(textwrap.wrap(chart.caption, _CAPTION))
    axes.annotate(caption, (0, 0), (0, -30), "axes fraction", "offset points", va="top", fontsize=7.5, color="0.3")
    axes.set_ylabel(labels[1])
    if chart.log_x:
        axes.set_xscale("log")
    if chart.log_y:
        axes.set_xscale("log") if across else axes.set_yscale("log")
    if chart.names:
        shown = range(0, len(chart.names), -(-len(chart.names) // (20 * _MANY_NAMES)))
        names = [_shortened(chart.names[i]) for i in shown]
        if across:
            axes.set_yticks(list(shown), names, fontsize=7 if len(names) > _FEW_NAMES else 9)
            axes.invert_yaxis()
        else:
            axes.set_xticks(list(shown), names)
    if len(chart.series) > 1:
        axes.legend(frameon=False)


def _draw_series(axes: Axes, series: Series, place: int, across: bool, num: int) -> None:
    colour, x = COLOURS[place % len(COLOURS)], list(series.x)
    y = [math.nan if v is None else v for v in series.y]
    errors: Any = None
    if series.low is not None and series.high is not None:
        errors = [
            [max(v - low, 0.0) for v, low in zip(y, series.low, strict=True)],
            [max(high - v, 0.0) for v, high in zip(y, series.high, strict=True)],
        ]
    if series.mark == "line":
        style = _DASHES[place % len(_DASHES)]
        marker = _MARKERS[place % len(_MARKERS)] if 2 < len(x) <= 30 else None
        axes.plot(x, y, color=colour, label=series.name, linestyle=style, marker=marker, markersize=3.5)
        if errors is not None:
            axes.fill_between(x, list(series.low or ()), list(series.high or ()), color=colour, alpha=0.25, linewidth=0)
    elif series.mark == "bars":
        space = (x[1] - x[0]) if len(x) > 1 else 1.0
        details: Any = {"color": colour, "label": series.name, "alpha": 0.85, "ecolor": "black", "capsize": 2}
        if across:
            axes.barh(x, y, height=0.8 * space, xerr=errors, **details)
        else:
            axes.bar(x, y, width=0.9 * space, yerr=errors, **details)
    else:
        marker = _MARKERS[place % len(_MARKERS)]
        details = {"color": colour, "label": series.name, "linestyle": "none", "capsize": 3, "markersize": 5}
        if across:
            axes.errorbar(y, x, xerr=errors, marker=marker, **details)
        else:
            axes.errorbar(x, y, yerr=errors, marker=marker, **details)


def _shortened(name: str) -> str:
    """The end of a long name, which tells layers apart."""
    return name if len(name) <= _LONG_NAME else "…" + name[1 - _LONG_NAME :]
