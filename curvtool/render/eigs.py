"""Eigenvalues for a reader."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape

from curvtool.render.numbers import count, number, with_error
from curvtool.render.tables import MATRICES, markdown_table, new_table
from curvtool.report.model import Eigs, Stability

_WHICH = {"la": "largest", "sa": "smallest", "lm": "largest in magnitude", "be": "both ends"}


def show(eigs: Eigs, console: Console) -> None:
    """The pairs with their errors, the layers, and what the learning rate means."""
    table = new_table(f"Eigenvalues of the {MATRICES[eigs.operator]} ({_WHICH[eigs.which]})", console)
    for name in ("#", "eigenvalue", "error (est.)", "relative", "residual", "data s.e."):
        table.add_column(name, justify="right", no_wrap=True)
    unmet = not all(pair.converged for pair in eigs.eigenvalues)
    if unmet:
        table.add_column("met")
    for place, pair in enumerate(eigs.eigenvalues, 1):
        table.add_row(
            str(place),
            with_error(pair.value, pair.error_bound),
            number(pair.error_bound, 2),
            number(pair.error_bound / abs(pair.value), 2) if abs(pair.value) > pair.error_bound else "-",
            number(pair.residual_norm, 2),
            number(pair.data_stderr, 2),
            *([("yes" if pair.converged else "no")] if unmet else []),
        )
    console.print(table)
    if unmet:
        console.print(
            "not met: the tolerance was not reached; the error is then the distance to some eigenvalue, which need not "
            "be the one of that rank."
        )
    if eigs.stability is not None:
        _print_stability(eigs.stability, console)
    if eigs.per_layer:
        layers = new_table("Leading eigenvalue of each layer's block", console)
        for name in ("layer", "parameters", "eigenvalue", "error (est.)", ""):
            layers.add_column(name, justify="left" if name in ("layer", "") else "right", no_wrap=name != "layer")
        for name, layer in eigs.per_layer.items():
            layers.add_row(
                escape(name),
                count(layer.num_params),
                with_error(layer.value, layer.error_bound),
                number(layer.error_bound, 2),
                "" if layer.converged else "not converged",
            )
        console.print(layers)
        products = round(sum(layer.num_hvps for layer in eigs.per_layer.values()))
        console.print(f"the layers took {products} products with their blocks.", style="dim")
    spread = any(pair.data_stderr is not None for pair in eigs.eigenvalues)
    kinds = sorted({pair.bound_kind for pair in eigs.eigenvalues})
    told = {
        "linear": "residual norm",
        "quadratic": "residual²/gap",
        "noise": "rounding noise",
    }
    console.print(
        f"error: estimated by {', '.join(told[k] for k in kinds)}; a pair that the iteration missed shows in none"
        + (
            " (--check full looks for such)."
            if eigs.num_missed is None
            else ": a fresh start beside them looked for it."
        )
        + (" data s.e.: what another sample of as many data would change, from few batches." if spread else ""),
        style="dim",
    )
    if eigs.vectors_file:
        console.print(f"vectors: {eigs.vectors_file}", style="dim", markup=False, highlight=False)


def _print_stability(stability: Stability, console: Console) -> None:
    product, error = stability.sharpness_times_lr, stability.error
    if abs(product - stability.threshold) <= error:
        verdict = "at the edge of stability"
    else:
        verdict = "above 2: unstable" if product > stability.threshold else "below 2: stable"
    console.print(
        f"learning rate {stability.lr:g} x largest eigenvalue = {with_error(product, error)} ({verdict} for gradient "
        "descent on the quadratic model)"
    )


def csv(eigs: Eigs) -> tuple[list[str], list[list[Any]]]:
    """A row a pair of the whole matrix, then a row a layer."""
    header = ["block", "index", "eigenvalue", "error_bound", "bound_kind", "residual_norm", "data_stderr", "converged"]
    rows = [
        ["all", i, repr(e.value), repr(e.error_bound), e.bound_kind, repr(e.residual_norm), e.data_stderr, e.converged]
        for i, e in enumerate(eigs.eigenvalues)
    ]
    rows += [
        [name, 0, repr(e.value), repr(e.error_bound), e.bound_kind, "", "", e.converged]
        for name, e in (eigs.per_layer or {}).items()
    ]
    return header, rows


def markdown(eigs: Eigs) -> list[str]:
    """The pairs, and the layers."""
    header = ["#", "eigenvalue", "error (est.)", "kind", "converged"]
    rows = [
        [
            place,
            with_error(e.value, e.error_bound),
            number(e.error_bound, 2),
            e.bound_kind,
            "yes" if e.converged else "no",
        ]
        for place, e in enumerate(eigs.eigenvalues, 1)
    ]
    lines = markdown_table(header, rows)
    if eigs.per_layer:
        layers = [[name, with_error(e.value, e.error_bound)] for name, e in eigs.per_layer.items()]
        lines += ["", *markdown_table(["layer", "eigenvalue"], layers)]
    return lines
