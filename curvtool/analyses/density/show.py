"""The spectral density for a reader."""

from __future__ import annotations

import math
from typing import Any

from rich.bar import Bar
from rich.console import Console, RenderableType
from rich.text import Text

from curvtool.analyses.density.record import Density
from curvtool.render.chart_types import Chart, Series
from curvtool.render.numbers import count, number, percent, percents, with_error
from curvtool.render.table_parts import filled_table, markdown_table, print_tables, width_of
from curvtool.report.share import Share
from curvtool.vocabulary import MATRICES
from curvtool.words import counted

_BINS = 18
_BELOW = "below 0 by more than rounding"  # what `below_zero` counts: nearer to zero no sign is known
_SHORTEST, _LONGEST, _MARGIN = 8, 80, 4  # of the bars, in characters
_LEAST_SHOWN = 0.5  # of an eigenvalue

TITLE = "Spectral density"


def verdict(density: Density) -> list[str]:
    """What the numbers say, in words."""
    near, below = density.near_zero, density.below_zero
    told = [
        f"The matrix has {counted(density.num_dims, 'eigenvalue')}: {_quoted(near)} of them within "
        f"{number(density.near, 2)} of zero, {_quoted(below)} {_BELOW}{_remedy(below)}."
    ]
    if density.outliers:
        values = [outlier.value for outlier in density.outliers]
        ends = f"from {number(min(values), 3)} to {number(max(values), 3)}"
        told.append(
            f"The {len(values)} outliers reach {ends}."
            if len(values) > 1
            else f"An outlier lies at {number(values[0], 3)}."
        )
    return told


def _below(density: Density) -> str:
    return f"{_BELOW} ({number(density.threshold, 2)})"


def _quoted(share: Share) -> str:
    """The share where its interval is narrower than a factor of two, else the interval."""
    if share.is_known:
        return percent(share.value)
    told = percents(share.low, share.high, 2)
    return f"between {told.replace(' to ', ' and ')}" if " to " in told else told


def _remedy(share: Share) -> str:
    """What would tell more, where the share is not known: the larger of both causes."""
    if share.is_known:
        return ""
    by_steps = share.most - share.least
    return f" (more {'--steps' if 2 * by_steps > share.high - share.low else '--probes'} would tell)"


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
    rounding = _below(density)
    shares = ((rounding, density.below_zero), (f"below -{near}", density.below_near),
              (f"within {near} of 0", density.near_zero))  # fmt: skip
    told = [*(f"{name}: {_share(share)}" for name, share in shares), _traces(density)]
    if density.outliers:
        found = ", ".join(with_error(o.value, o.error_bound) for o in density.outliers)
        worst = max(outlier.error_bound for outlier in density.outliers)
        told.append(f"outliers, found beforehand: {found} (estimated errors up to {number(worst, 2)})")
    if density.method == "exact":
        how = f"Every eigenvalue was computed ({count(density.num_dims)}); rounding remains (the noise floor). "
    else:
        how = (
            f"{counted(density.num_probes, 'random vector')} of {counted(density.num_steps, 'Lanczos step')}. "
            "Intervals, 95 % for the matrix: what the vectors and the steps leave open. "
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
    """`62 % (61 % to 64 %)` where the interval is narrower than a factor of two, else the interval alone."""
    told = percents(share.low, share.high)
    return f"{percent(share.value, 3)} ({told})" if share.is_known and share.low != share.high else told


def _traces(density: Density) -> str:
    low, high = density.trace_ci95
    own = f"trace {with_error(density.trace, max(high - density.trace, density.trace - low))}"
    if density.method != "exact":
        own += f" (95 %: {number(low, 3)} to {number(high, 3)})"
    if density.trace_by_probes is None or density.trace_by_probes_ci95 is None:
        return own
    low, high = density.trace_by_probes_ci95
    half = (high - low) / 2
    other = with_error(density.trace_by_probes, half)
    return f"{own}; an independent estimate gives {other} (95 %: +- {number(half, 2)})"


def charts(density: Density) -> list[Chart]:
    """The density on a logarithmic scale with its band, the outliers at the height of one eigenvalue, and how many
    eigenvalues lie above each value."""
    one = 1 / (density.num_dims * density.width * math.sqrt(2 * math.pi))
    floor = max(one / 10, max(density.density) * 1e-9)
    line = [value if value > floor else None for value in density.density]
    low = [max(value, floor) for value in density.density_low]
    high = [max(value, floor) for value in density.density_high]
    found = [Series("density", "line", density.grid, line, low, high)]
    if density.outliers:
        places = [outlier.value for outlier in density.outliers]
        found.append(Series("outlier, found beforehand", "points", places, [max(one, floor)] * len(places)))
    caption = f"Smoothed over {number(density.width, 2)}: narrower features are not resolved."
    if density.method != "exact":
        caption += f" Band: 95 % over {counted(density.num_probes, 'random vector')}, pointwise; not of the steps."
    caption += " The axis begins at a tenth of one eigenvalue's height."
    title = f"Spectral density of the {MATRICES[density.operator]}"
    smoothed = Chart(title, "eigenvalue", "density", tuple(found), caption, log_y=True)
    return [smoothed, _above(density)]


def _above(density: Density) -> Chart:
    """On a logarithmic scale, since nearly all eigenvalues lie near zero."""

    def numbers(shares: list[float]) -> list[float]:
        return [max(density.num_dims * (1 - share), _LEAST_SHOWN) for share in shares]

    counts = [count if count > _LEAST_SHOWN else None for count in numbers(density.cumulative)]
    low, high = numbers(density.cumulative_high), numbers(density.cumulative_low)
    line = Series("how many", "line", density.grid, counts, low, high)
    covers = "rounding" if density.method == "exact" else "random vectors, steps and rounding together"
    caption = f"Not smoothed. Band: 95 % for the matrix, pointwise: {covers}. The axis begins at half an eigenvalue."
    title = f"How many eigenvalues of the {MATRICES[density.operator]} lie above each value"
    return Chart(title, "eigenvalue", "how many above", (line,), caption, log_y=True)


def csv(density: Density) -> tuple[list[str], list[list[Any]]]:
    """A row a grid point."""
    columns = {
        "eigenvalue": density.grid,
        "density": density.density,
        "density_stderr": density.density_stderr,
        "density_low": density.density_low,
        "density_high": density.density_high,
        "cumulative": density.cumulative,
        "cumulative_low": density.cumulative_low,
        "cumulative_high": density.cumulative_high,
    }
    return list(columns), [list(row) for row in zip(*columns.values(), strict=True)]


def markdown(density: Density) -> list[str]:
    """The histogram's numbers, and the shares."""
    rows = [[number(low, 3), number(high, 3), f"{expected:.1f}"] for low, high, expected in _bins(density)]
    return [
        *markdown_table(["from", "to", "how many (est.)"], rows),
        "",
        f"{_below(density).capitalize()}: {_share(density.below_zero)}; within {number(density.near, 2)} of zero "
        f"{_share(density.near_zero)}; {_traces(density)}.",
    ]
