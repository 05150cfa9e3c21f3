"""Jacobian norms for a reader."""

from __future__ import annotations

import itertools
from typing import Any

from rich.console import Console

from curvtool.render.charts import Chart, Gallery, Series
from curvtool.render.numbers import count, number
from curvtool.render.tables import markdown_table, new_table
from curvtool.report.model import JacNorm


def verdict(jac: JacNorm) -> list[str]:
    """What the numbers say, in words."""
    for name, summary, key in (("spectral", jac.spectral, "spectral"), ("Frobenius", jac.frobenius, "frobenius")):
        if summary is None:
            continue
        told = [f"The {name} norm is {number(summary.median, 4)} in the median and {number(summary.max, 4)} at most."]
        value = getattr(jac.top[0], key) if jac.top else None
        if value and summary.median:
            times = number(value / summary.median, 3)
            told.append(f"Most sensitive is row {jac.top[0].index}: {times} times the median.")
        return told
    return []


def show(jac: JacNorm, console: Console) -> None:
    """The distribution over the examples, and the largest ones."""
    title = f"Input-output Jacobian, {count(jac.output_dim)} outputs x {count(jac.input_dim)} inputs an example"
    table = new_table(title, console)
    table.add_column("norm")
    for name in ("mean", "std", "min", "median", "95 %", "max"):
        table.add_column(name, justify="right", no_wrap=True)
    norms = (
        ("spectral", jac.spectral),
        ("Frobenius", jac.frobenius),
        ("linf to l2 >=", jac.linf_lower),
        ("linf to l2 <=", jac.linf_upper),
    )
    for name, row in norms:
        if row is not None:
            cells = (row.mean, row.std, row.min, row.median, row.p95, row.max)
            table.add_row(name, *(number(v, 4) for v in cells))
    console.print(table)
    if jac.per_class:
        classes = new_table("By class", console)
        for name in ("class", "examples", "spectral mean", "max", "Frobenius mean", "max"):
            classes.add_column(name, justify="right", no_wrap=True)
        for label, c in jac.per_class.items():
            norms_of = (c.spectral_mean, c.spectral_max, c.frobenius_mean, c.frobenius_max)
            classes.add_row(label, count(c.num_examples), *(number(value, 4) for value in norms_of))
        console.print(classes)
    if jac.top:
        largest = new_table("Most sensitive examples", console)
        for name in ("row", "spectral", "Frobenius"):
            largest.add_column(name, justify="right")
        for example in jac.top:
            largest.add_row(str(example.index), number(example.spectral, 4), number(example.frobenius, 4))
        console.print(largest)
    if jac.exact:
        told = "exact: all of every Jacobian was computed (rounding remains)"
    else:
        parts = []
        if jac.frobenius_max_stderr is not None:
            parts.append(f"Frobenius by probes, standard error up to {number(jac.frobenius_max_stderr, 2)}")
        if jac.spectral_max_error is not None:
            parts.append(f"spectral by Lanczos, estimated error up to {number(jac.spectral_max_error, 2)}")
        told = "; ".join(parts) + ("; the listed examples recomputed exactly" if jac.top_exact and jac.top else "")
    if jac.directions_file:
        console.print(f"singular vectors: {jac.directions_file}", style="dim", markup=False, highlight=False)
    console.print(f"{told}. {count(jac.num_examples)} examples.", style="dim")
    if jac.by_embeddings:
        console.print("with respect to the embeddings of the tokens, one after the other.", style="dim")


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
