"""A report as tables for a terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from curvtool.render.numbers import bytes_text, count, counted, number, seconds_text, with_error
from curvtool.report.model import Cost, Eigs, JacNorm, Plan, Report, Stability, Trace

_MATRICES = {
    "hessian": "Hessian",
    "ggn": "Gauss-Newton matrix",
    "fisher": "Fisher information",
    "empirical-fisher": "empirical Fisher",
}
_WHICH = {"la": "largest", "sa": "smallest", "lm": "largest in magnitude", "be": "both ends"}


def print_report(report: Report, console: Console) -> None:
    """The result first, then what it was measured on and what it cost."""
    for analysis in report.analyses:
        if isinstance(analysis, Eigs):
            _print_eigs(analysis, console)
        elif isinstance(analysis, Trace):
            _print_trace(analysis, console)
        else:
            _print_jacnorm(analysis, console)
        _print_problem(report, analysis.cost, console)


def _table(title: str, console: Console) -> Table:
    ascii_only = not console.encoding.lower().startswith("utf")
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.ASCII if ascii_only else box.SIMPLE_HEAD,
    )


def _print_eigs(eigs: Eigs, console: Console) -> None:
    table = _table(f"Eigenvalues of the {_MATRICES[eigs.operator]} ({_WHICH[eigs.which]})", console)
    for name in ("#", "eigenvalue", "error (est.)", "relative", "residual", "data s.e.", ""):
        table.add_column(name, justify="left" if name == "" else "right", no_wrap=True)
    for place, pair in enumerate(eigs.eigenvalues, 1):
        table.add_row(
            str(place),
            with_error(pair.value, pair.error_bound),
            number(pair.error_bound, 2),
            number(pair.error_bound / abs(pair.value), 2) if pair.value else "-",
            number(pair.residual_norm, 2),
            number(pair.data_stderr, 2),
            "" if pair.converged else "not converged",
        )
    console.print(table)
    if eigs.stability is not None:
        _print_stability(eigs.stability, console)
    if eigs.per_layer:
        layers = _table("Leading eigenvalue of each layer's block", console)
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
        + (" data s.e.: what another sample of as many data would change." if _has_spread(eigs) else ""),
        style="dim",
    )
    if eigs.vectors_file:
        console.print(f"vectors: {eigs.vectors_file}", style="dim", markup=False, highlight=False)


def _has_spread(eigs: Eigs) -> bool:
    return any(pair.data_stderr is not None for pair in eigs.eigenvalues)


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


def _print_trace(trace: Trace, console: Console) -> None:
    table = _table(f"Trace of the {_MATRICES[trace.operator]}", console)
    for name in ("trace", "95 % interval", "relative half-width", "standard error"):
        table.add_column(name, justify="right", no_wrap=True)
    if trace.ci95 is None:
        table.add_row(number(trace.value, 5), "-", "-", "-")
    else:
        half = (trace.ci95[1] - trace.ci95[0]) / 2
        table.add_row(
            with_error(trace.value, half),
            f"{with_error(trace.ci95[0], half)} to {with_error(trace.ci95[1], half)}",
            f"{100 * half / abs(trace.value):.2g} %" if trace.value else "-",
            number(trace.stderr, 2),
        )
    console.print(table)
    console.print(
        f"{trace.num_passes} passes, a probe for each of {counted(trace.num_terms, 'group')} of samples; "
        "the interval covers the probes' error, not the data's.",
        style="dim",
    )


def _print_jacnorm(jac: JacNorm, console: Console) -> None:
    title = f"Input-output Jacobian, {count(jac.output_dim)} outputs x {count(jac.input_dim)} inputs an example"
    table = _table(title, console)
    table.add_column("norm")
    for name in ("mean", "std", "min", "median", "95 %", "max"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, row in (("spectral", jac.spectral), ("Frobenius", jac.frobenius)):
        if row is not None:
            cells = (row.mean, row.std, row.min, row.median, row.p95, row.max)
            table.add_row(name, *(number(v, 4) for v in cells))
    console.print(table)
    if jac.top:
        largest = _table("Most sensitive examples", console)
        for name in ("row", "spectral", "Frobenius"):
            largest.add_column(name, justify="right")
        for example in jac.top:
            largest.add_row(str(example.index), number(example.spectral, 4), number(example.frobenius, 4))
        console.print(largest)
    if jac.exact:
        told = "exact: every row of every Jacobian was computed (rounding remains)"
    else:
        parts = []
        if jac.frobenius_max_stderr is not None:
            parts.append(f"Frobenius by probes, standard error up to {number(jac.frobenius_max_stderr, 2)}")
        if jac.spectral_max_error is not None:
            parts.append(f"spectral by Lanczos, estimated error up to {number(jac.spectral_max_error, 2)}")
        told = "; ".join(parts) + ("; the listed examples recomputed exactly" if jac.top_exact and jac.top else "")
    console.print(f"{told}. {count(jac.num_examples)} examples.", style="dim")


def _print_problem(report: Report, cost: Cost, console: Console) -> None:
    problem, prov = report.problem, report.provenance
    lines = [
        f"{problem.model}: {count(problem.num_trainable)} of {count(problem.num_params)} parameters, "
        f"{counted(problem.num_samples, 'sample')}"
    ]
    if problem.loss is not None:
        lines.append(
            f"{problem.loss} ({problem.reduction}) {number(problem.loss_value, 5)}, "
            f"gradient norm {number(problem.grad_norm, 3)}"
        )
    noise = problem.preflight.noise_floor
    lines.append(f"{prov.dtype} on {prov.device}" + (f", noise floor {number(noise, 2)}" if noise else ""))
    hvps, passes = round(cost.num_hvps, 1), round(cost.data_passes, 1)
    products = f"{hvps:g} products ({cost.check_hvps:g} of them the check), " if hvps else ""
    lines.append(f"{products}{passes:g} passes, {seconds_text(cost.seconds)}, peak {bytes_text(cost.peak_bytes)}")
    console.print("\n".join(lines), style="dim", highlight=False)


def print_plan(plan: Plan, console: Console) -> None:
    """What a run would do."""
    table = _table(f"{plan.kind}, not run", console)
    table.add_column("")
    table.add_column("", justify="right")
    rows = [
        ("parameters", f"{count(plan.num_trainable)} of {count(plan.num_params)}"),
        ("samples", f"{count(plan.num_samples)} in batches of {plan.batch_size}"),
        ("device, precision", f"{plan.device}, {plan.dtype}"),
        ("products run", plan.ad_mode),
        ("one product (measured)", seconds_text(plan.seconds_per_product)),
        ("products expected", f"about {plan.expected_products:.0f}"),
        ("time expected", f"about {seconds_text(plan.expected_seconds)}"),
        ("kept graphs", bytes_text(plan.graph_bytes)),
        ("vectors", bytes_text(plan.vector_bytes)),
        ("memory budget", bytes_text(plan.memory_budget)),
    ]
    for name, value in rows:
        table.add_row(name, value)
    console.print(table)
    for note in plan.notes:
        console.print(note, style="dim")
