"""The spectral density for a reader."""

from __future__ import annotations

import math
from typing import Any

from rich.bar import Bar
from rich.console import Console, RenderableType
from rich.text import Text

from curvtool.render.charts import Chart, Series
from curvtool.render.numbers import count, number, percent, with_error
from curvtool.render.tables import MATRICES, filled_table, markdown_table, print_tables, width_of
from curvtool.report.model import Density, Share
from curvtool.report.numbers import half_width

_BINS = 18
_KNOWN = 0.1  # a share whose bounds are farther apart is not given as a number
_SHORTEST, _LONGEST, _MARGIN = 8, 80, 4  # of the bars, in characters


def verdict(density: Density) -> list[str]:
    """What the numbers say, in words."""
    near, below = density.near_zero, density.below_zero
    share = f"{percent(below.value)} lie below zero"
    if percent(below.low) != percent(below.high):
        share += f" ({percent(below.low)} to {percent(below.high)})"
    if below.high - below.low > _KNOWN:
        share = f"between {percent(below.low)} and {percent(below.high)} lie below zero (more --steps would tell)"
    told = [
        f"Of the {count(density.num_dims)} eigenvalues {percent(near.value)} lie within {number(density.near, 2)} "
        f"of zero, and {share}."
    ]
    if density.outliers:
        values = [outlier.value for outlier in density.outliers]
        told.append(f"The {len(values)} outliers reach from {number(min(values), 3)} to {number(max(values), 3)}.")
    return told


def show(density: Density, console: Console) -> None:
    """A histogram on a logarithmic scale, the outliers, and the shares."""
    bins = _bins(density)
    many = "how many" if density.method == "exact" else "how many (est.)"
    columns: dict[str, list[RenderableType]] = {
        "eigenvalue from": [number(low, 3) for low, _, _ in bins],
        "to": [number(high, 3) for _, high, _ in bins],
        many: ["-" if n < 0.05 else f"{n:.1f}" if n < 100 else f"{n:,.0f}" for _, _, n in bins],
    }
    title = f"Spectral density of the {MATRICES[density.operator]}"
    taken = width_of(filled_table(title, columns, console))
    size = max(_SHORTEST, min(_LONGEST, console.width - taken - _MARGIN))
    largest = max(math.log10(1 + n) for _, _, n in bins) or 1.0
    columns["logarithmic"] = [_bar(math.log10(1 + n) / largest, size, console) for _, _, n in bins]
    print_tables([filled_table(title, columns, console)], console)
    for text in notes(density):
        console.print(text, markup=False, highlight=False)


def notes(density: Density) -> list[str]:
    """The shares with their bounds, the trace, the outliers, and how all of it was made."""
    near = number(density.near, 2)
    shares = (("below 0", density.below_zero), (f"below -{near}", density.below_near),
              (f"within {near} of 0", density.near_zero))  # fmt: skip
    told = [*(f"{name}: {_share(share)}" for name, share in shares), _traces(density)]
    if density.outliers:
        found = ", ".join(with_error(o.value, o.error_bound) for o in density.outliers)
        worst = max(outlier.error_bound for outlier in density.outliers)
        told.append(f"outliers, found beforehand: {found} (estimated errors up to {number(worst, 2)})")
    if density.method == "exact":
        how = f"All {density.num_dims} eigenvalues were computed; rounding remains (the noise floor). "
    else:
        how = (
            f"{density.num_probes} random vectors of {density.num_steps} Lanczos steps. s.e.: over the vectors; from "
            "to: what so many steps can tell. "
        )
    return [*told, f"{how}Smoothed over {number(density.width, 2)}: what is narrower is not resolved."]


def _bar(length: float, size: int, console: Console) -> RenderableType:
    """From 0 to 1, in eighths of a character; in ASCII where the terminal cannot show more."""
    if console.encoding.lower().startswith("utf"):
        return Bar(1.0, 0.0, length, width=size)
    return Text("#" * round(size * length))


def _bins(density: Density) -> list[tuple[float, float, float]]:
    """Edges and the expected number of eigenvalues, from the nodes themselves and the outliers."""
    points = [(node, weight) for nodes, weights in zip(density.nodes, density.weights, strict=True)
              for node, weight in zip(nodes, weights, strict=True)]  # fmt: skip
    values = [p for p, _ in points] + [o.value for o in density.outliers]
    low, high = min(values), max(values)
    if low == high:
        return [(low, high, float(density.num_dims))]
    size = (high - low) / _BINS or 1.0
    counts = [0.0] * _BINS
    rest = density.num_dims - len(density.outliers)
    for value, weight in points:
        counts[min(int((value - low) / size), _BINS - 1)] += weight * rest / len(density.nodes)
    for outlier in density.outliers:
        counts[min(int((outlier.value - low) / size), _BINS - 1)] += 1
    return [(low + i * size, low + (i + 1) * size, n) for i, n in enumerate(counts)]


def _share(share: Share) -> str:
    """`62 % (31 to 93 %, s.e. 2.7 %)`: the bounds that the nodes leave, and the error over the vectors."""
    if share.stderr == 0.0 and share.low == share.high:
        return percent(share.value, 3)
    error = "" if share.stderr is None else f", s.e. {percent(share.stderr)}"
    return f"{percent(share.value, 3)} ({percent(share.low, 3)} to {percent(share.high, 3)}{error})"


def _traces(density: Density) -> str:
    own = f"trace {with_error(density.trace, density.trace_stderr or 0.0)}"
    if density.trace_stderr:
        half = half_width(density.trace_stderr, max(density.num_probes - 1, 1))
        own = f"trace {with_error(density.trace, half)} (95 %: +- {number(half, 2)})"
    if density.trace_by_probes is None or density.trace_by_probes_ci95 is None:
        return own
    low, high = density.trace_by_probes_ci95
    half = (high - low) / 2
    return f"{own}; by probes of its own {with_error(density.trace_by_probes, half)} (95 %: +- {number(half, 2)})"


def charts(density: Density) -> list[Chart]:
    """The density on a logarithmic scale with its band, and the outliers at the height of one eigenvalue."""
    one = 1 / (density.num_dims * density.width * math.sqrt(2 * math.pi))
    floor = max(one / 10, max(density.density) * 1e-9)
    line = [value if value > floor else None for value in density.density]
    low = high = None
    if density.density_stderr is not None:
        times = half_width(1.0, max(density.num_probes - 1, 1))  # standard errors, by Student's t
        pairs = list(zip(density.density, density.density_stderr, strict=True))
        low = [max(value - times * error, floor) for value, error in pairs]
        high = [max(value + times * error, floor) for value, error in pairs]
    found = [Series("density", "line", density.grid, line, low, high)]
    if density.outliers:
        places = [outlier.value for outlier in density.outliers]
        found.append(Series("outlier, found beforehand", "points", places, [max(one, floor)] * len(places)))
    caption = f"Smoothed over {number(density.width, 2)}: narrower features are not resolved."
    if low is not None:
        caption += f" Band: 95 % over {density.num_probes} random vectors (Student's t), point by point."
    caption += " The axis begins at a tenth of one eigenvalue's height."
    title = f"Spectral density of the {MATRICES[density.operator]}"
    return [Chart(title, "eigenvalue", "density", tuple(found), caption, log_y=True)]


def csv(density: Density) -> tuple[list[str], list[list[Any]]]:
    """A row a grid point."""
    missing: list[Any] = [""] * len(density.grid)
    errors, spreads = density.density_stderr or missing, density.cumulative_stderr or missing
    rows = zip(density.grid, density.density, errors, density.cumulative, spreads, strict=True)
    header = ["eigenvalue", "density", "density_stderr", "cumulative", "cumulative_stderr"]
    return header, [list(row) for row in rows]


def markdown(density: Density) -> list[str]:
    """The histogram's numbers, and the shares."""
    rows = [[number(low, 3), number(high, 3), f"{expected:.1f}"] for low, high, expected in _bins(density)]
    return [
        *markdown_table(["from", "to", "how many (est.)"], rows),
        "",
        f"Below zero {_share(density.below_zero)}; within {number(density.near, 2)} of zero "
        f"{_share(density.near_zero)}; {_traces(density)}.",
    ]
