"""Eigenvalues for a reader."""

from __future__ import annotations

import math
from typing import Any

from rich.console import Console
from rich.table import Table

from curvtool.analyses.eigs.ranks import ranks
from curvtool.analyses.eigs.record import Eigenvalue, Eigs, LayerEigenvalue, PopulationValue, Stability
from curvtool.render.chart_types import Chart, Series, spans_decades
from curvtool.render.numbers import count, number, percent, to_digits_of, with_error
from curvtool.render.table_parts import filled_table, markdown_table, print_tables
from curvtool.vocabulary import MATRICES
from curvtool.words import counted

_NEAR = 0.05  # of the edge of stability: as near as training is seen to hover about it
_FAR_ABOVE = 0.5  # of the largest eigenvalue: a certificate whose limit lies so far above it is told beside it
_NOT_SOUGHT = "; the smallest eigenvalue was not looked for: along negative ones it diverges"
_WHICH = {"la": "largest", "sa": "smallest", "lm": "largest in magnitude", "be": "both ends"}

TITLE = "Eigenvalues"


def verdict(eigs: Eigs) -> list[str]:
    """What the numbers say, in words."""
    if not eigs.eigenvalues:
        return []
    told = []
    ends = {"la": [("largest", 0)], "sa": [("smallest", 0)], "lm": [("largest in magnitude", 0)]}
    for name, place in ends.get(eigs.which, [("largest", 0), ("smallest", -1)]):
        pair = eigs.eigenvalues[place]
        text = f"{name} eigenvalue {with_error(pair.value, pair.error_bound)}"
        text += f", estimated error {number(pair.error_bound, 2)}"
        if pair.data_stderr is not None:
            text += f", standard error over the data {number(pair.data_stderr, 2)}"
        told.append(text)
        if pair.population is not None:
            told.append(_of_the_population(pair.population))
        if name == "smallest" and eigs.operator == "hessian":
            told.append(_of_the_smallest(pair))
        if name == "largest":
            told += _not_excluded(pair, eigs)
    if any(_is_open(pair) for pair in eigs.eigenvalues):
        told.append("not converged: a value may still move, or another may take its rank")
    told += _rounded(eigs)
    is_negative = any(pair.value < -pair.error_bound for pair in eigs.eigenvalues)
    if eigs.stability is not None:
        may_be = eigs.which == "la" and eigs.operator == "hessian"  # the other matrices have none
        told.append(_of_stability(eigs.stability, is_negative, _NOT_SOUGHT if may_be else ""))
    elif is_negative:
        told.append("an eigenvalue is negative: gradient descent on the quadratic model diverges at any learning rate")
    elif eigs.operator == "hessian" and eigs.which in {"la", "be"} and eigs.eigenvalues[0].value > 0:
        first = eigs.eigenvalues[0]
        edge = 2 / first.value
        told.append(
            f"gradient descent on the quadratic model is stable for learning rates below "
            f"{number(edge, 3)} (2 / largest eigenvalue){_NOT_SOUGHT if eigs.which == 'la' else ''}"
        )
    return [f"{text[0].upper()}{text[1:]}." for text in told]


def _of_the_population(known: PopulationValue) -> str:
    half = (known.high - known.low) / 2
    value, low, high = (to_digits_of(each, half) for each in (known.value, known.low, known.high))
    # a network that was fitted to these samples has another one on them than on others
    return (
        f"estimate for the population of the data: {value} (95 %: {low} to {high}), valid if the network was not "
        "trained on these samples"
    )


def _of_the_smallest(pair: Eigenvalue) -> str:
    if pair.value < -pair.error_bound:
        return "the loss on these data curves downward along its eigenvector, so this point is not a minimum"
    if pair.value > pair.error_bound:
        return "no negative curvature was found"
    return "it is zero to within its error"


def _not_excluded(pair: Eigenvalue, eigs: Eigs) -> list[str]:
    """Where a far larger one may have been missed, as after few products or without a check."""
    limit = None if eigs.certificate is None else eigs.certificate.above
    if limit is None or limit <= pair.value + max(_FAR_ABOVE * abs(pair.value), pair.error_bound):
        return []
    return [f"larger eigenvalues, up to {_outward(limit, True)}, are not excluded"]


def _rounded(eigs: Eigs) -> list[str]:
    """How many values no more products would make as accurate as was asked for."""
    num = sum(pair.unmet == "rounding" for pair in eigs.eigenvalues)
    if not num:
        return []
    which = f"{num} of {counted(len(eigs.eigenvalues), 'value')}"
    return [f"rounding alone keeps {which} above the tolerance asked for"]


def _of_stability(stability: Stability, is_negative: bool, rest: str) -> str:
    product, error = stability.sharpness_times_lr, stability.error
    off = product / stability.threshold - 1
    if abs(product - stability.threshold) <= error:
        meaning = "at the edge of stability, to within the error"
    elif abs(off) < _NEAR:
        side = "above" if off > 0 else "below"
        meaning = f"near the edge of stability: {percent(abs(off))} {side} 2, the limit for gradient descent on the "
        meaning += "quadratic model"
    elif product > stability.threshold:
        meaning = "sharp: above 2, where gradient descent on the quadratic model diverges"
    else:
        meaning = "below 2: gradient descent on the quadratic model is stable"
    if is_negative:
        meaning += "; along an eigenvector of a negative eigenvalue it diverges at any learning rate"
    elif product <= stability.threshold:
        meaning += rest
    return f"largest eigenvalue x learning rate {stability.lr:g} = {with_error(product, error)}: {meaning}"


def show(eigs: Eigs, console: Console) -> None:
    """The pairs with their errors, the layers, and what the learning rate means."""
    pairs = eigs.eigenvalues
    unmet = not all(pair.converged for pair in pairs)
    columns = {
        "#": [str(rank) for rank in ranks(eigs)],
        "eigenvalue": [with_error(pair.value, pair.error_bound) for pair in pairs],
        "est. error": [number(pair.error_bound, 2) for pair in pairs],
        "relative": [_relative(pair) for pair in pairs],
        "residual": [number(pair.residual_norm, 2) for pair in pairs],
        "s.e. over data": [number(pair.data_stderr, 2) for pair in pairs],
    }
    if unmet:
        columns["met"] = [_met(pair) for pair in pairs]
    title = f"Eigenvalues of the {MATRICES[eigs.operator]} ({_WHICH[eigs.which]})"
    print_tables([filled_table(title, columns, console), *_layer_table(eigs, console)], console)
    for text in notes(eigs):
        console.print(text, markup=False, highlight=False)


def notes(eigs: Eigs) -> list[str]:
    """What the errors are, and what they do not cover."""
    found = []
    met = {_met(pair) for pair in eigs.eigenvalues}
    if "rounding" in met:
        found.append(
            "rounding: the error is above the tolerance, and more products would not lower it; --dtype float64 would, "
            "unless it was used."
        )
    if "unsettled" in met:
        found.append(
            "unsettled: the error is within the tolerance, but the search or its check ended before it was sure of the "
            "rank; another eigenvalue may still emerge."
        )
    if "no" in met:
        found.append(
            "not met: the tolerance was not reached; the error supposes that no eigenvalue near the value was missed, "
            "and the value may be another rank's."
        )
    if eigs.per_layer:
        products = round(sum(layer.num_hvps for layer in eigs.per_layer.values()))
        found.append(f"the layers took {counted(products, 'product')} with their blocks.")
    kinds = sorted({pair.bound_kind for pair in eigs.eigenvalues})
    told = {
        "linear": "the residual norm",
        "quadratic": "residual^2/gap (at least a quarter of the residual)",
        "noise": "rounding noise",
    }
    text = f"est. error: from {', '.join(told[kind] for kind in kinds)}. It does not cover missed eigenvalues."
    looked = _certified(eigs)
    if any(pair.data_stderr is not None for pair in eigs.eigenvalues):
        looked += " s.e. over data: how much the value would change with another data set of the same size."
    found.append(text + looked)
    if eigs.vectors_file:
        found.append(f"vectors: {eigs.vectors_file}")
    return found


def _met(pair: Eigenvalue | LayerEigenvalue) -> str:
    if pair.converged:
        return "yes"
    return {"rounding": "rounding", "rank": "unsettled"}.get(pair.unmet or "", "no")


def _is_open(pair: Eigenvalue) -> bool:
    """Whether more products might still change it."""
    return not pair.converged and pair.unmet != "rounding"


def _certified(eigs: Eigs) -> str:
    """Beyond what no eigenvalue was missed."""
    made = eigs.certificate
    if made is None:
        return " --check full looks for such." if eigs.num_missed is None else ""
    ends = (("above", made.above), ("below", made.below))
    limits = [f"{name} {_outward(limit, name == 'above')}" for name, limit in ends
              if limit is not None]  # fmt: skip
    if not limits:  # every eigenvalue is listed, or nothing is excluded
        return ""
    text = f" No eigenvalue {' or '.join(limits)} was missed, with probability {percent(made.probability, 3)}"
    text += " over the random start"
    if round(made.check_hvps):
        text += f" ({counted(round(made.check_hvps), 'product')})"
    return text + ("." if eigs.num_missed is not None else "; --check full brings that nearer.")


def _outward(limit: float, up: bool) -> str:
    """Four digits, rounded away from the eigenvalues listed: what is said holds of the rounded number too."""
    unit = 10.0 ** (math.floor(math.log10(abs(limit))) - 3) if limit else 0.0
    rounded = (math.ceil(limit / unit) if up else math.floor(limit / unit)) * unit if unit else 0.0
    return number(rounded, 4)


def _relative(pair: Eigenvalue) -> str:
    return number(pair.error_bound / abs(pair.value), 2) if abs(pair.value) > pair.error_bound else "-"


def _layer_table(eigs: Eigs, console: Console) -> list[Table]:
    layers = list((eigs.per_layer or {}).values())
    if not layers:
        return []
    columns = {
        "layer": list(eigs.per_layer or {}),
        "parameters": [count(layer.num_params) for layer in layers],
        "eigenvalue": [with_error(layer.value, layer.error_bound) for layer in layers],
        "est. error": [number(layer.error_bound, 2) for layer in layers],
    }
    if not all(layer.converged for layer in layers):
        columns["met"] = [_met(layer) for layer in layers]
    return [filled_table("Leading eigenvalue of each layer's block", columns, console, text="layer")]


def charts(eigs: Eigs) -> list[Chart]:
    """The pairs with their errors, and the leading eigenvalue of every layer's block."""
    pairs = eigs.eigenvalues
    places = [float(i) for i in range(len(pairs))]
    values = [pair.value for pair in pairs]
    found = [
        Series(
            "eigenvalue, with its estimated error",
            "points",
            places,
            values,
            [pair.value - pair.error_bound for pair in pairs],
            [pair.value + pair.error_bound for pair in pairs],
        )
    ]
    spreads = [pair.data_stderr for pair in pairs]
    if any(spreads):
        known = [(place, value, s) for place, value, s in zip(places, values, spreads, strict=True) if s is not None]
        found.append(
            Series(
                "the same, one standard error over the data",
                "points",
                [place + 0.15 for place, _, _ in known],
                [value for _, value, _ in known],
                [value - s for _, value, s in known],
                [value + s for _, value, s in known],
            )
        )
    if eigs.stability is not None and places:
        edge = 2 / eigs.stability.lr
        name = f"2 / learning rate = {number(edge, 3)}"
        found.append(Series(name, "line", [places[0] - 0.4, places[-1] + 0.4], [edge, edge]))
    title = f"Eigenvalues of the {MATRICES[eigs.operator]} ({_WHICH[eigs.which]})"
    whole = Chart(
        title,
        "rank",
        "eigenvalue",
        tuple(found),
        "Error bars: the estimated distance to the nearest eigenvalue; where it is small, shorter than the marks.",
        tuple(str(rank) for rank in ranks(eigs)),
        log_y=spans_decades(values),
    )
    return [*([whole] if pairs else []), *_layer_chart(eigs), *_convergence(eigs)]


def _convergence(eigs: Eigs) -> list[Chart]:
    """The error of the first eigenvalue over the products."""
    known = [(n, abs(error / value)) for n, value, error in eigs.history if value and error]
    if len(known) < 2:
        return []
    products = [n for n, _ in known]
    found = Series("estimated error, relative", "line", products, [error for _, error in known])
    wanted = Series(f"asked for ({eigs.rtol:g})", "line", [products[0], products[-1]], [eigs.rtol, eigs.rtol])
    caption = "Of the first eigenvalue in the list; the others may need longer."
    return [Chart("Convergence", "products", "relative error", (found, wanted), caption, log_y=True)]


def _layer_chart(eigs: Eigs) -> list[Chart]:
    layers = list((eigs.per_layer or {}).items())
    if not layers:
        return []
    bars = Series(
        "leading eigenvalue",
        "bars",
        [float(i) for i in range(len(layers))],
        [layer.value for _, layer in layers],
        [layer.value - layer.error_bound for _, layer in layers],
        [layer.value + layer.error_bound for _, layer in layers],
    )
    caption = "Of each layer's own diagonal block; error bars: the estimated error."
    names = tuple(name for name, _ in layers)
    return [Chart("Leading eigenvalue by layer", "layer", "eigenvalue", (bars,), caption, names)]


def csv(eigs: Eigs) -> tuple[list[str], list[list[Any]]]:
    """A row a pair of the whole matrix, then a row a layer."""
    header = ["block", "rank", "eigenvalue", "error_bound", "bound_kind", "residual_norm", "data_stderr"]
    header += ["population", "population_low", "population_high", "converged"]
    rows = [
        [
            "all",
            rank,
            e.value,
            e.error_bound,
            e.bound_kind,
            e.residual_norm,
            e.data_stderr,
            *_population(e),
            e.converged,
        ]
        for rank, e in zip(ranks(eigs), eigs.eigenvalues, strict=True)
    ]
    rows += [
        [name, 1, e.value, e.error_bound, e.bound_kind, "", "", "", "", "", e.converged]
        for name, e in (eigs.per_layer or {}).items()
    ]
    return header, rows


def markdown(eigs: Eigs) -> list[str]:
    """The pairs, and the layers."""
    header = ["#", "eigenvalue", "est. error", "kind", "converged"]
    rows = [
        [
            rank,
            with_error(e.value, e.error_bound),
            number(e.error_bound, 2),
            e.bound_kind,
            "yes" if e.converged else "no",
        ]
        for rank, e in zip(ranks(eigs), eigs.eigenvalues, strict=True)
    ]
    lines = markdown_table(header, rows)
    if eigs.per_layer:
        layers = [[name, with_error(e.value, e.error_bound)] for name, e in eigs.per_layer.items()]
        lines += ["", *markdown_table(["layer", "eigenvalue"], layers)]
    return lines


def _population(pair: Eigenvalue) -> list[float | None]:
    known = pair.population
    return [None] * 3 if known is None else [known.value, known.low, known.high]
