"""Jacobian norms for a reader."""

from __future__ import annotations

import itertools
from typing import Any

from rich.console import Console

from curvtool.render.charts import Chart, Gallery, Series
from curvtool.render.numbers import count, number
from curvtool.render.tables import Listing, filled_table, markdown_table, print_tables
from curvtool.report.model import JacNorm


def verdict(jac: JacNorm) -> list[str]:
    """What the numbers say, in words."""
    for name, summary, key in (("spectral", jac.spectral, "spectral"), ("Frobenius", jac.frobenius, "frobenius")):
        if summary is None:
            continue
        if summary.max == 0.0:
            return [
                f"Every {name} norm is 0: the outputs do not change with the inputs (saturated, or cut off from them)."
            ]
        told = [f"The median {name} norm is {number(summary.median, 4)}, the largest {number(summary.max, 4)}."]
        value = getattr(jac.top[0], key) if jac.top else None
        if value and summary.median:
            times = number(value / summary.median, 3)
            told.append(f"Most sensitive is row {jac.top[0].index}: {times} times the median.")
        return told
    return []


def show(jac: JacNorm, console: Console) -> None:
    """The distribution over the examples, and the largest ones."""
    title = f"Input-output Jacobian, {count(jac.output_dim)} outputs x {count(jac.input_dim)} inputs an example"
    named = {
        "spectral": jac.spectral,
        "Frobenius": jac.frobenius,
        "linf to l2 >=": jac.linf_lower,
        "linf to l2 <=": jac.linf_upper,
    }
    norms = {name: summary for name, summary in named.items() if summary is not None}
    columns = {"norm": list(norms)}
    for header, key in (("mean", "mean"), ("std", "std"), ("min", "min"), ("median", "median"), ("95 %", "p95"),
                        ("max", "max")):  # fmt: skip
        columns[header] = [number(getattr(summary, key), 4) for summary in norms.values()]
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
            parts.append(f"Frobenius by probes, standard error up to {number(jac.frobenius_max_stderr, 2)}")
        if jac.spectral_max_error is not None:
            parts.append(f"spectral by Lanczos, estimated error up to {number(jac.spectral_max_error, 2)}")
        told = "; ".join(parts) + ("; the listed examples recomputed exactly" if jac.top_exact and jac.top else "")
    found = [f"{told}. {count(jac.num_examples)} examples."]
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
            f"{count(jac.num_examples)} examples, median {number(summary.median)}, 95 % below {number(summary.p95)}."
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


def csv(jac: JacNorm) -> tuple[list[str], list[list[Any]]]:
    """A row a norm: its distribution over the examples."""
    names = ["mean", "std", "min", "median", "p95", "max"]
    summaries = {name: getattr(jac, name) for name in ("spectral", "frobenius", "linf_lower", "linf_upper")}
    kept = [(name, summary) for name, summary in summaries.items() if summary is not None]
    return ["norm", *names], [[name, *(getattr(summary, n) for n in names)] for name, summary in kept]


def markdown(jac: JacNorm) -> list[str]:
    """The distribution, and the largest examples."""
    header, rows = csv(jac)
    lines = markdown_table(header, [[row[0], *(number(v, 4) for v in row[1:])] for row in rows])
    if jac.top:
        listed = [[e.index, number(e.spectral), number(e.frobenius)] for e in jac.top]
        lines += ["", *markdown_table(["row", "spectral", "Frobenius"], listed)]
    return lines
