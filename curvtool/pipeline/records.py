"""From results to the records of the report."""

from __future__ import annotations

import datetime
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from curvtool.config.schema import RunConfig
from curvtool.estimators.cost import Cost
from curvtool.pipeline.stage import Stage
from curvtool.report import model as report
from curvtool.report.provenance import environment
from curvtool.words import counted

_LARGEST_RTOL = 0.5  # worth an advice


def cost_record(cost: Cost, peak: int) -> report.Cost:
    """What an analysis cost, with the most memory in use."""
    return report.Cost(**asdict(cost), peak_bytes=peak)


def finite_degrees(degrees: float | None) -> tuple[float | None, str | None]:
    """Degrees of freedom as a report holds them, or None and why."""
    if degrees is None:
        return None, "an error needs two passes"
    if math.isinf(degrees):
        return None, "infinite: no probes took part, or they were all alike"
    return degrees, None


def warnings_of(stages: Sequence[Stage]) -> list[report.Warning]:
    """Those of all analyses, each once."""
    found: list[report.Warning] = []
    for stage in stages:
        found += [warning for warning in stage.warnings if warning not in found]
    return found


def summary(stages: Sequence[Stage]) -> report.ProblemSummary:
    """What was measured, and what was checked and repaired first, for the first analysis that takes the loss."""
    stage = next((each for each in stages if each.loss_value is not None), stages[0])
    loaded, problem, checks = stage.loaded, stage.problem, stage.checks
    assert checks is not None
    repairs = [*problem.repairs]
    has_loss = problem.loss is not None
    missing = dict.fromkeys(("weight", "loss", "reduction", "loss_value", "grad_norm"), "no loss takes part")
    missing = {} if has_loss else missing
    if problem.batch_norm is None:
        missing["batch_norm"] = "no module normalises by running statistics"
    if problem.statistics_batch is None:
        missing["statistics_batch"] = "no batch has statistics of its own"
    return report.ProblemSummary(
        model=loaded.model_name,
        num_params=problem.num_params,
        num_trainable=problem.num_trainable,
        num_samples=problem.num_samples,
        weight=problem.total_weight if has_loss else None,
        loss=problem.loss.name if problem.loss is not None else None,
        reduction=problem.reduction if has_loss else None,
        loss_value=stage.loss_value,
        grad_norm=stage.grad_norm,
        preflight=report.PreflightChecks(
            num_samples=checks.num_samples,
            symmetry=checks.symmetry,
            finite_difference=checks.finite_difference,
            noise_floor=checks.noise_floor,
            gradient_error=checks.gradient_error,
            repairs=repairs,
            unavailable=checks.unavailable,
        ),
        batch_norm=problem.batch_norm,
        statistics_batch=problem.statistics_batch,
        unavailable=missing,
    )


def not_converged(analysis: report.Analysis, dtype: str) -> report.Warning:
    """The warning for an analysis that did not reach what was asked for, by products of this dtype."""
    if isinstance(analysis, report.Eigs):
        unmet = [e for e in analysis.eigenvalues if not e.converged]
        rounded = [e for e in unmet if e.unmet == "rounding"]
        if rounded and len(rounded) == len(unmet):
            worst = max(pair.error_bound / abs(pair.value) for pair in rounded)  # no 0: for these, rounding is enough
            which = f"the error of {len(rounded)} of {counted(len(analysis.eigenvalues), 'eigenvalue')}"
            return _kept_by_rounding("CT201", which, analysis.rtol, dtype, worst)
        near_zero = [e.error_bound for e in unmet if abs(e.value) <= e.error_bound]
        remedy = "--basis device" if analysis.basis == "bfloat16" else "raise --max-passes or --rtol"
        if rounded:
            remedy += f"; {len(rounded)} of them by rounding: "
            remedy += "a larger --rtol" if dtype == "float64" else "--dtype float64, or a larger --rtol"
        if near_zero:  # of a zero no relative error is ever met
            remedy += (
                f"; {len(near_zero)} of them are 0 within their errors: --atol {_rounded_up(max(near_zero))} accepts"
            )
        return report.Warning(
            code="CT201",
            message=f"{len(unmet)} of {counted(len(analysis.eigenvalues), 'eigenvalue')} did not converge to rtol "
            f"{analysis.rtol:g} in {counted(analysis.cost.solver_hvps, 'product', 'g')}: {remedy}",
        )
    if isinstance(analysis, report.Trace):
        rounding = analysis.arithmetic_error or 0.0
        if rounding > analysis.rtol * abs(analysis.value):
            worst = rounding / abs(analysis.value) if analysis.value else math.inf
            return _kept_by_rounding("CT202", "the interval", analysis.rtol, dtype, worst)
        return report.Warning(
            code="CT202",
            message=f"the interval is wider than rtol {analysis.rtol:g} after {counted(analysis.num_passes, 'pass')}: "
            "raise --max-passes or --rtol",
        )
    if isinstance(analysis, report.Diag):
        if analysis.method == "exact":
            worst = analysis.relative_error or math.inf
            return _kept_by_rounding("CT202", "the entries' errors", analysis.rtol, dtype, worst)
        return report.Warning(
            code="CT202",
            message=f"the entries' errors are larger than rtol {analysis.rtol:g} after "
            f"{counted(analysis.num_passes, 'pass')}: raise --max-passes or --rtol",
        )
    if isinstance(analysis, report.Density):
        return report.Warning(code="CT202", message="not every probe was made, or not every step")
    if isinstance(analysis, report.Verify):
        return report.Warning(code="CT201", message="curvtool's own numbers did not converge: raise --rtol")
    return report.Warning(
        code="CT201",
        message="some spectral norms did not converge: their errors are in the report (spectral_max_error)",
    )


def _kept_by_rounding(code: str, which: str, rtol: float, dtype: str, worst: float) -> report.Warning:
    """The warning for errors that no product lowers, the worst of which is so large beside its value."""
    remedies = [] if dtype == "float64" else ["--dtype float64"]
    if worst < _LARGEST_RTOL:
        remedies.append(f"--rtol {_rounded_up(worst)}")
    remedy = ", or ".join(remedies) or "it is 0 within rounding, and of a 0 no relative error is ever met"
    return report.Warning(code=code, message=f"rounding alone keeps {which} above rtol {rtol:g}: {remedy}")


def _rounded_up(value: float) -> str:
    """To one digit, never less."""
    exponent = math.floor(math.log10(value))
    return f"{math.ceil(value / 10**exponent)}e{exponent}"


def settings_record(configs: Sequence[RunConfig]) -> dict[str, Any]:
    """The shared settings, and each analysis' own; several of a kind are numbered."""
    settings = {name: asdict(getattr(configs[-1], name)) for name in ("model", "data", "loss", "params", "compute")}
    kinds = [config.analysis.kind for config in configs]
    for number, config in enumerate(configs):
        before = kinds[:number].count(kinds[number])
        settings[kinds[number] + (f" {before + 1}" if before else "")] = asdict(config.analysis)
    return settings


def provenance(stages: Sequence[Stage], started: str) -> report.Provenance:
    """Where the numbers come from; how products were run is that of the last analysis."""
    stage = stages[-1]
    config, problem = stage.config, stage.problem
    facts = environment(problem.device)
    absent = {
        name: reason
        for name, reason in (
            ("cuda", "this torch is built without CUDA"), ("driver", "no CUDA device in use"),
            ("slurm_job_id", "not a Slurm job"), ("git_commit", "not in a git repository"),
            ("git_dirty", "not in a git repository"),
        )
        if facts[name] is None
    }  # fmt: skip
    return report.Provenance(
        **facts,
        **stage.modes,
        argv=sys.argv[1:],
        config=settings_record([each.config for each in stages]),
        config_sources=config.sources,
        dtype=stage.dtype_name,
        tf32=problem.tf32,
        attention_backend="math",
        seed=config.compute.seed,
        parameters_include=config.params.include,
        parameters_exclude=config.params.exclude,
        checkpoint_sha256=stage.loaded.checkpoint_sha256,
        data_fingerprint=problem.data.fingerprint(),
        started=started,
        ended=now(),
        unavailable=absent,
    )


def now() -> str:
    """The time in UTC, ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
