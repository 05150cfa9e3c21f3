"""Jacobian norms for a reader."""

from __future__ import annotations

import itertools
from typing import Any

from rich.console import Console

from curvtool.analyses.jacnorm.record import JacNorm, Summary
from curvtool.render.chart_types import Chart, Gallery, Series
from curvtool.render.numbers import count, number
from curvtool.render.table_parts import Listing, filled_table, markdown_table, print_tables
from curvtool.words import counted

TITLE = "Jacobian norms"


def verdict(jac: JacNorm) -> list[str]:
    """What the numbers say, in words."""
    for name, summary, key in (("spectral", jac.spectral, "spectral"), ("Frobenius", jac.frobenius, "frobenius")):
        if summary is None:
            continue
        if summary.max == 0.0:
            return [
                f"Every {name} norm is 0: the outputs do not change with the inputs (saturated, or cut off from them)."
            ]
        told = [f"The median {name} norm is {_stated(summary, 'median')}, the largest {_stated(summary, 'max')}."]
        value = getattr(jac.top[0], key) if jac.top else None
        if value and summary.median:
            times = number(value / summary.median, 3)
            listed = " of those listed" if jac.top_rivals and not jac.exact else ""
            told.append(f"Most sensitive{listed} is row {jac.top[0].index}: {times} times the median.")
        return told + _doubt(jac)
    return []


def _stated(summary: Summary, name: str) -> str:
    """The number, with its 95 % interval where that shows in its digits."""
    value = number(getattr(summary, name), 4)
    low, high = (number(end, 4) for end in (summary.bounds or {}).get(name, (None, None)))
    return value if summary.bounds is None or low == high else f"{value} ({low} to {high}, 95 %)"


def _doubt(jac: JacNorm) -> list[str]:
    """How many examples could belong to the list beside those on it."""
    if jac.exact or not jac.top or not jac.top_rivals:
        return []
    others = f"{count(jac.top_rivals)} other {'example' if jac.top_rivals == 1 else 'examples'}"
    return [f"The list is uncertain: {others} could belong to the largest {len(jac.top)} (95 %)."]


def show(jac: JacNorm, console: Console) -> None:
    """The distribution over the examples, and the largest ones."""
    title = f"Input-output Jacobian, {counted(jac.output_dim, 'output')} x {counted(jac.input_dim, 'input')} an example"
    named = {
        "spectral": jac.spectral,
        "Frobenius": jac.frobenius,
        "linf to l2 >=": jac.linf_lower,
        "linf to l2 <=": jac.linf_upper,
    }
    norms = {name: summary for name, summary in named.items() if summary is not None}
    columns = {"norm": [label for name, summary in norms.items() for label in _rows(name, summary, jac)]}
    for header, key in (("mean", "mean"), ("std", "std"), ("min", "min"), ("median", "median"), ("95 %", "p95"),
                        ("max", "max")):  # fmt: skip
        columns[header] = [number(v, 4) for summary in norms.values() for v in _rows("", summary, jac, key).values()]
    tables = [filled_table(title, columns, console, text="norm")]
    if jac.per_class:
        classes = list(jac.per_class.values())
        columns = {
            "class": list(jac.per_class),
            "examples": [count(c.num_examples) for c in classes],
            "spectral mean": [number(c.spectral_mean, 4) for c in classes],
            "spectral max": [number(c.spectral_max, 4) for c in classes],
            "Frob. mean": [number(c.frobenius_mean, 4) for c in classes],
            "Frob. max": [number(c.frobenius_max, 4) for c in classes],
        }
        tables.append(filled_table("By class", columns, console, text="class"))
    if jac.top:
        columns = {
            "row": [str(example.index) for example in jac.top],
            "spectral": [number(example.spectral, 4) for example in jac.top],
            "Frobenius": [number(example.frobenius, 4) for example in jac.top],
        }
        columns = {name: cells for name, cells in columns.items() if set(cells) != {"-"}}
        tables.append(filled_table("Most sensitive examples", columns, console))
    print_tables(tables, console)
    for text in notes(jac):
        console.print(text, markup=False, highlight=False)


def notes(jac: JacNorm) -> list[str]:
    """How exact the norms are."""
    if jac.exact:
        told = "exact: all of every Jacobian was computed (rounding remains)"
    else:
        parts = []
        if jac.frobenius_max_stderr is not None:
            parts.append(f"Frobenius by Lanczos and probes, standard error up to {number(jac.frobenius_max_stderr, 2)}")
        if jac.spectral_max_error is not None:
            parts.append(f"spectral by Lanczos, error up to {number(jac.spectral_max_error, 2)}")
        told = "; ".join(parts)
        if jac.top_exact and jac.top:
            told += f"; {counted(jac.num_recomputed, 'example')} recomputed exactly, those listed among them"
    found = [f"{told}. {counted(jac.num_examples, 'example')}."]
    if jac.directions_file:
        found.append(f"singular vectors: {jac.directions_file}")
    if jac.by_embeddings:
        found.append("with respect to the embeddings of the tokens, one after the other.")
    return found


def tables(jac: JacNorm) -> list[Listing]:
    """The distribution, the classes, and the largest examples."""
    found = [("Distribution over the examples", *csv(jac))]
    if jac.per_class:
        header = ["class", "examples", "spectral mean", "spectral max", "Frobenius mean", "Frobenius max"]
        rows: list[list[Any]] = [
            [label, c.num_examples, c.spectral_mean, c.spectral_max, c.frobenius_mean, c.frobenius_max]
            for label, c in jac.per_class.items()
        ]
        found.append(("By class", header, rows))
    if jac.top:
        header = ["row", "spectral", "Frobenius"]
        found.append(("Most sensitive examples", header, [[e.index, e.spectral, e.frobenius] for e in jac.top]))
    return found


def charts(jac: JacNorm) -> list[Chart]:
    """How the norms are spread over the examples, and the largest ones."""
    found = []
    for name, summary in (("spectral", jac.spectral), ("Frobenius", jac.frobenius)):
        if summary is None or summary.histogram is None:
            continue
        edges, counts = summary.histogram.edges, summary.histogram.counts
        middles = [(a + b) / 2 for a, b in itertools.pairwise(edges)]
        bars = Series("examples", "bars", middles, [float(count) for count in counts])
        caption = (
            f"{counted(jac.num_examples, 'example')}, median {number(summary.median)}, "
            f"95 % below {number(summary.p95)}."
        )
        found.append(
            Chart(
                f"{name.capitalize()} norm of the input-output Jacobian", f"{name} norm", "examples", (bars,), caption
            )
        )
    if jac.top:
        norm = "spectral" if jac.top[0].spectral is not None else "frobenius"
        values = [getattr(example, norm) for example in jac.top]
        bars = Series(f"{norm} norm", "bars", [float(i) for i in range(len(values))], values)
        names = tuple(str(example.index) for example in jac.top)
        found.append(Chart("Most sensitive examples", "row in the data", f"{norm} norm", (bars,), "", names))
    return found


def galleries(jac: JacNorm) -> list[Gallery]:
    """The most sensitive inputs themselves, where they are images, with their leading singular directions."""
    shown = [example for example in jac.top if example.image and example.direction]
    if not shown:
        return []
    return [
        Gallery(
            "Most sensitive images",
            tuple(f"row {example.index}: {number(example.spectral, 3)}" for example in shown),
            tuple(str(example.image) for example in shown),
            tuple(str(example.direction) for example in shown),
            "Below each image the direction in which its outputs change most: red where more of a pixel moves them, "
            "blue where less does.",
        )
    ]


def _rows(name: str, summary: Summary, jac: JacNorm, key: str = "mean") -> dict[str, float]:
    """A statistic and, of estimates, the ends of its interval, by the label of the row."""
    found = {name: float(getattr(summary, key))}
    if not jac.exact and summary.bounds is not None:
        found |= {f"{name} from": summary.bounds[key][0], f"{name} to": summary.bounds[key][1]}
    return found


def csv(jac: JacNorm) -> tuple[list[str], list[list[Any]]]:
    """A row a norm: its distribution over the examples; of estimates two more rows, the ends of the 95 % intervals."""
    names = ["mean", "std", "min", "median", "p95", "max"]
    summaries = {name: getattr(jac, name) for name in ("spectral", "frobenius", "linf_lower", "linf_upper")}
    kept = [(name, summary) for name, summary in summaries.items() if summary is not None]
    rows: list[list[Any]] = []
    for name, summary in kept:
        columns = [_rows(name, summary, jac, n) for n in names]
        rows += [[label, *(column[label] for column in columns)] for label in columns[0]]
    return ["norm", *names], rows


def markdown(jac: JacNorm) -> list[str]:
    """The distribution, and the largest examples."""
    header, rows = csv(jac)
    lines = markdown_table(header, [[row[0], *(number(v, 4) for v in row[1:])] for row in rows])
    if jac.top:
        listed = [[e.index, number(e.spectral), number(e.frobenius)] for e in jac.top]
        lines += ["", *markdown_table(["row", "spectral", "Frobenius"], listed)]
    return lines
