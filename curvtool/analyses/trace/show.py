"""The trace for a reader."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from curvtool.analyses.trace.facts import degrees_of, half_width_of
from curvtool.analyses.trace.record import BlockTrace, Trace
from curvtool.render.chart_types import Chart, Series
from curvtool.render.numbers import count, number, percent, percents, with_error
from curvtool.render.table_parts import Listing, filled_table, markdown_table, print_tables
from curvtool.report.numbers import half_width
from curvtool.vocabulary import MATRICES
from curvtool.words import counted

TITLE = "Trace"


def verdict(trace: Trace) -> list[str]:
    """What the numbers say, in words."""
    if trace.method == "exact":
        text = f"Trace {number(trace.value, 6)}: every diagonal entry was computed."
    elif trace.ci95 is None:
        made = (
            "a single pass" if trace.num_passes == 1 else f"{trace.num_passes} passes, too few for one group of samples"
        )
        text = f"Trace {number(trace.value, 3)} from {made}: no error is known."
    else:
        low, high = trace.ci95
        half = (high - low) / 2
        text = (
            f"Trace {with_error(trace.value, half)}, 95 % interval {with_error(low, half)} to {with_error(high, half)}."
        )
    told = [text]
    if trace.per_layer and trace.value > 0 and all(layer.value >= 0 for layer in trace.per_layer.values()):
        largest = max(trace.per_layer, key=lambda name: (trace.per_layer or {})[name].value)
        told += _share(trace, largest)
    return told


def _share(trace: Trace, name: str) -> list[str]:
    """A layer's part of the whole with its 95 % interval; nothing where the whole is not told from zero.

    The two estimates come from the same probes, and how they fall together is not known: their errors are added.
    """
    layer = (trace.per_layer or {})[name]
    share = layer.value / trace.value
    if trace.method == "exact" or trace.ci95 is None:
        return [f"Layer {name} holds {percent(share)} of it."]
    half = (trace.ci95[1] - trace.ci95[0]) / 2
    if half >= trace.value:
        return []
    if layer.stderr is None:
        return [f"Layer {name} holds about {percent(share, 2)} of it; how exactly is not known after so few passes."]
    off = (half_width_of(layer, trace.num_passes) + share * half) / (trace.value - half)
    if share - off <= 0 and share + off >= 1:
        return []  # an interval that says nothing
    return [
        f"Layer {name} holds {percent(share, 2)} of it (95 % interval: "
        f"{percents(max(share - off, 0), min(share + off, 1), 2)})."
    ]


def show(trace: Trace, console: Console) -> None:
    """The estimate with its interval, each layer's, and how it was made."""
    if trace.ci95 is None:
        row = [number(trace.value, 5), "-", "-", "-"]
    else:
        half = (trace.ci95[1] - trace.ci95[0]) / 2
        row = [
            with_error(trace.value, half),
            f"{with_error(trace.ci95[0], half)} to {with_error(trace.ci95[1], half)}",
            percent(half / abs(trace.value) if trace.value else None),
            number(trace.stderr, 2),
        ]
    names = ("trace", "95 % interval", "relative half-width", "standard error")
    columns = {name: [cell] for name, cell in zip(names, row, strict=True)}
    whole = filled_table(f"Trace of the {MATRICES[trace.operator]}", columns, console)
    print_tables([whole, *_layer_table(trace, console)], console)
    for text in notes(trace):
        console.print(text, markup=False, highlight=False)


def notes(trace: Trace) -> list[str]:
    """How the estimate was made."""
    probes = "" if trace.method == "exact" else "; the interval covers the probes' error, not the sampling of the data"
    return [f"{_how(trace)}{probes}.", f"method {trace.method}: {trace.method_reason}."]


def tables(trace: Trace) -> list[Listing]:
    """The estimate, the layers, and the parameters."""
    header, rows = csv(trace)
    found: list[Listing] = [("The estimate", header[1:], [rows[0][1:]])]
    for name, blocks in (("layer", trace.per_layer), ("parameter", trace.per_parameter)):
        if blocks:
            cells = [
                [each, b.num_params, b.value, b.stderr, b.degrees_of_freedom, b.value / b.num_params]
                for each, b in blocks.items()
            ]
            titles = [name, "parameters", "trace", "standard error", "degrees of freedom", "per parameter"]
            found.append((f"By {name}", titles if name == "layer" else [name, "entries", *titles[2:]], cells))
    return found


def _layer_table(trace: Trace, console: Console) -> list[Table]:
    layers = list((trace.per_layer or {}).values())
    if not layers:
        return []
    cells = [_cells(layer, trace.num_passes) for layer in layers]
    columns = {
        "layer": list(trace.per_layer or {}),
        "parameters": [count(layer.num_params) for layer in layers],
        "trace": [value for value, _ in cells],
        "95 % +-": [error for _, error in cells],
        "per parameter": [number(layer.value / layer.num_params, 3) for layer in layers],
    }
    return [filled_table("Trace of each layer's block", columns, console, text="layer")]


def _how(trace: Trace) -> str:
    if trace.method == "exact":
        return "every diagonal entry was computed (rounding remains)"
    if trace.method == "xtrace":
        return f"{counted(trace.num_passes, 'probe')}, each against the space that the others span"
    told = f"{counted(trace.num_passes, 'pass')}, a probe for each of {counted(trace.num_terms, 'group')} of samples"
    return told + (f", in the complement of {counted(trace.rank, 'vector')} whose part is exact" if trace.rank else "")


def _cells(block: BlockTrace, num_passes: int) -> tuple[str, str]:
    """The value, and half of its 95 % interval."""
    if block.stderr is None:
        return number(block.value, 3), "-"
    half = half_width_of(block, num_passes)
    return with_error(block.value, half), number(half, 2)


def charts(trace: Trace) -> list[Chart]:
    """Every layer's trace, and how the estimate came about; else the estimate alone."""
    return [*_layer_chart(trace), *_convergence(trace)] or [_alone(trace)]


def _alone(trace: Trace) -> Chart:
    """The estimate with its interval."""
    low, high = trace.ci95 or (trace.value, trace.value)
    point = Series("trace", "points", [0.0], [trace.value], [low], [high])
    caption = "No error is known." if trace.ci95 is None else "Error bar: the 95 % interval."
    return Chart(f"Trace of the {MATRICES[trace.operator]}", "", "trace", (point,), caption, (number(trace.value, 6),))


def _convergence(trace: Trace) -> list[Chart]:
    """The estimate over the passes."""
    known = [(n, value, error) for n, value, error in trace.history if error is not None]
    if len(known) < 2:
        return []
    per_pass = degrees_of(trace, trace.num_passes) / max(trace.num_passes - 1, 1)  # degrees of freedom
    halves = [half_width(error, max(per_pass * (n - 1), 1.0)) for n, _, error in known]
    line = Series(
        "estimate",
        "line",
        [n for n, _, _ in known],
        [value for _, value, _ in known],
        [value - half for (_, value, _), half in zip(known, halves, strict=True)],
        [value + half for (_, value, _), half in zip(known, halves, strict=True)],
    )
    caption = "Band: 95 % over the probes so far (Student's t)."
    return [Chart("Convergence", "passes", "trace", (line,), caption)]


def _layer_chart(trace: Trace) -> list[Chart]:
    layers = list((trace.per_layer or {}).items())
    if not layers:
        return []
    values = [layer.value for _, layer in layers]
    errors = [half_width_of(layer, trace.num_passes) for _, layer in layers]
    bars = Series(
        "trace",
        "bars",
        [float(i) for i in range(len(layers))],
        values,
        [v - e for v, e in zip(values, errors, strict=True)],
        [v + e for v, e in zip(values, errors, strict=True)],
    )
    title, caption = (
        f"Trace of the {MATRICES[trace.operator]} by layer",
        "Error bars: 95 % over the probes (Student's t); none where no error is known.",
    )
    return [Chart(title, "layer", "trace", (bars,), caption, tuple(name for name, _ in layers))]


def csv(trace: Trace) -> tuple[list[str], list[list[Any]]]:
    """A row for the whole, then a row a parameter."""
    low, high = trace.ci95 or ("", "")
    header = ["block", "trace", "stderr", "degrees_of_freedom", "ci95_low", "ci95_high", "num_passes", "converged"]
    rows = [["all", trace.value, trace.stderr, trace.degrees_of_freedom, low, high, trace.num_passes, trace.converged]]
    rows += [
        [name, block.value, block.stderr, block.degrees_of_freedom, "", "", trace.num_passes, ""]
        for name, block in (trace.per_parameter or {}).items()
    ]
    return header, rows


def markdown(trace: Trace) -> list[str]:
    """The estimate with its interval, and each layer's."""
    interval = "-" if trace.ci95 is None else f"{trace.ci95[0]:.5g} to {trace.ci95[1]:.5g}"
    row = [number(trace.value, 5), interval, number(trace.stderr, 2)]
    lines = markdown_table(["trace", "95 % interval", "standard error"], [row])
    if trace.per_layer:
        layers = [[name, *_cells(block, trace.num_passes)] for name, block in trace.per_layer.items()]
        lines += ["", *markdown_table(["layer", "trace", "95 % +-"], layers)]
    return lines
