"""A report as tables for a terminal."""

from __future__ import annotations

from rich.console import Console

from curvtool.render.analyses import print_tables_of, shows_preflight, verdict_of
from curvtool.render.numbers import bytes_text, count, number, seconds_text, with_error
from curvtool.render.table_parts import new_table
from curvtool.report.model import Cost, Plan, PreflightChecks, ProblemSummary, RanksForecast, Report
from curvtool.report.numbers import gradient_error
from curvtool.words import counted


def print_report(report: Report, console: Console) -> None:
    """The result first, then what it was measured on and what it cost."""
    for analysis in report.analyses:
        for text in verdict_of(analysis):
            console.print(text, style="bold", markup=False, highlight=False)
        print_tables_of(analysis, console)
        if shows_preflight(analysis):
            _print_preflight(report.problem.preflight, console)
        _print_problem(report, analysis.cost, console)


def _print_preflight(checks: PreflightChecks, console: Console) -> None:
    table = new_table(f"Preflight on {counted(checks.num_samples, 'sample')}", console)
    table.add_column("")
    table.add_column("", justify="right", no_wrap=True)
    for name, told in (
        ("symmetry", "symmetry of the product, relative"),
        ("finite_difference", "distance from differences of gradients (float64)"),
        ("noise_floor", "noise floor: distance from the float64 product"),
    ):
        value = getattr(checks, name)
        table.add_row(told, number(value, 2) if value is not None else checks.unavailable.get(name, "-"))
    console.print(table)
    console.print("around every product: " + "; ".join(checks.repairs), markup=False, highlight=False)


def _gradient(problem: ProblemSummary) -> str:
    """Its norm, with its error where that shows in three digits."""
    error, norm = gradient_error(problem), problem.grad_norm
    if norm is None or error < 5e-4 * norm:
        return number(norm, 3)
    return f"{with_error(norm, error)} +- {number(error, 2)} by rounding"


def _print_problem(report: Report, cost: Cost, console: Console) -> None:
    problem, prov = report.problem, report.provenance
    lines = [
        f"{problem.model}: {count(problem.num_trainable)} of {counted(problem.num_params, 'parameter')}, "
        f"{counted(problem.num_samples, 'sample')}"
    ]
    if problem.loss is not None:
        lines.append(
            f"{problem.loss} ({problem.reduction}) {number(problem.loss_value, 5)}, gradient norm {_gradient(problem)}"
        )
    if problem.statistics_batch is not None:
        lines[0] += f", BatchNorm in batches of {count(problem.statistics_batch)}"
    noise = problem.preflight.noise_floor
    lines.append(f"{prov.dtype} on {prov.device}" + (f", noise floor {number(noise, 2)}" if noise else ""))
    hvps, passes = round(cost.num_hvps, 1), round(cost.data_passes, 1)
    products = counted(hvps, "product", "g") if hvps else ""
    products += f" ({cost.check_hvps:g} of them the check), " if cost.check_hvps else ", " if hvps else ""
    told = f"{counted(passes, 'pass', 'g')}, " if passes else ""
    lines.append(f"{products}{told}{seconds_text(cost.seconds)}, peak {bytes_text(cost.peak_bytes)}")
    console.print("\n".join(lines), style="dim", markup=False, highlight=False)


def print_plan(plan: Plan, console: Console) -> None:
    """What a run would do."""
    table = new_table(f"{plan.kind}, not run", console)
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
        *(_rows_of_ranks(plan.on_ranks) if plan.on_ranks is not None else []),
    ]
    for name, value in rows:
        table.add_row(name, value)
    console.print(table)
    for note in plan.notes:
        console.print(note, style="dim", markup=False)


def _rows_of_ranks(forecast: RanksForecast) -> list[tuple[str, str]]:
    seconds, held = forecast.seconds_per_product, forecast.bytes_per_rank
    return [
        (f"on {counted(forecast.ranks, 'rank')}, one product (computed)", seconds_text(seconds.total)),
        (f"  its part of the samples, {count(forecast.samples_per_rank)}", seconds_text(seconds.compute)),
        (f"  traffic at {bytes_text(forecast.bandwidth)}/s", seconds_text(seconds.traffic)),
        ("  latency of the collectives", seconds_text(seconds.latency)),
        ("  orthogonalisation", seconds_text(seconds.vectors)),
        ("  products expected", f"about {forecast.expected_products:.0f}"),
        ("  time expected", f"about {seconds_text(forecast.expected_seconds)}"),
        ("memory a rank (computed)", bytes_text(held.total)),
        ("  parameters", bytes_text(held.parameters)),
        ("  vectors within a product", bytes_text(held.working)),
        ("  basis", bytes_text(held.basis)),
        ("  graphs", bytes_text(held.graphs)),
    ]
