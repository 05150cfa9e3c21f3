"""The one place where the stages meet: configuration -> problem -> operator -> estimator -> report."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from curvtool.config.schema import EigsConfig, JacnormConfig, RunConfig, TraceConfig
from curvtool.errors import CurvtoolError, Interrupted, UsageError
from curvtool.estimators.eigenpairs import EigenvaluesResult
from curvtool.estimators.eigenvalues import eigenvalues
from curvtool.estimators.jacobian_norms import JacobianNormsResult, jacobian_norms
from curvtool.estimators.observer import SILENT, Observer
from curvtool.estimators.trace import TraceResult, trace
from curvtool.operators.hessian import Hessian
from curvtool.operators.jacobian import InputJacobian
from curvtool.operators.memory import peak_bytes
from curvtool.operators.preflight import preflight_hessian, preflight_jacobian
from curvtool.pipeline import records, settings
from curvtool.pipeline.settings import Loaded
from curvtool.problem.problem import Problem
from curvtool.report import model as report
from curvtool.report.write import check_writable


@dataclasses.dataclass
class Outcome:
    """A report, and what stopped the run early where something did."""

    report: report.Report
    stopped: BaseException | None = None


def run(config: RunConfig, observer: Observer = SILENT) -> Outcome:
    """Loads the problem, runs the analysis and reports it.

    What stops an estimator on the way does not lose its result: the report is then `partial` and `stopped` says why.

    Raises:
        CurvtoolError: before there was anything to report.
        KeyboardInterrupt: likewise.
    """
    started = records.now()
    if isinstance(config.analysis, JacnormConfig) and config.analysis.per_example:
        check_writable(Path(config.analysis.per_example))
    loaded = settings.load(config, observer)
    device = loaded.problem.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    warnings: list[report.Warning] = []
    if loaded.problem.dtype == torch.bfloat16:
        warnings.append(
            report.Warning(code="CT203", message="bfloat16 products carry 8 bits: read the noise floor first")
        )
    finish = _jacobian_run if isinstance(config.analysis, JacnormConfig) else _hessian_run
    analysis, summary, modes, stopped = finish(config, loaded, observer, warnings)
    if stopped is not None:
        reason = stopped.message if isinstance(stopped, CurvtoolError) else "interrupted"
        warnings.append(report.Warning(code="CT204", message=f"stopped early: {reason}; the numbers are partial"))
    elif not analysis.converged:
        warnings.append(records.not_converged(analysis))
    status: report.Status = "partial" if stopped is not None else "complete" if analysis.converged else "not_converged"
    whole = report.Report(
        status=status,
        problem=summary,
        analyses=[analysis],
        warnings=warnings,
        provenance=records.provenance(config, loaded, modes, started),
    )
    return Outcome(whole, stopped)


_Run = tuple[report.Analysis, report.ProblemSummary, dict[str, Any], BaseException | None]


def _hessian_run(config: RunConfig, loaded: Loaded, observer: Observer, warnings: list[report.Warning]) -> _Run:
    problem, analysis = loaded.problem, config.analysis
    assert isinstance(analysis, EigsConfig | TraceConfig)
    observer.begin("preflight on a small batch")
    checks = preflight_hessian(problem)
    budget = settings.memory_budget(config, problem.device)
    group = analysis.probe_group if isinstance(analysis, TraceConfig) else 32
    hessian = Hessian(
        problem,
        batch_size=settings.batch_size(config),
        mode=config.compute.hvp,
        memory_budget=budget,
        group_size=group,
    )
    observer.begin("loss and gradient")
    loss_value, gradient = hessian.loss_and_gradient()
    if isinstance(analysis, TraceConfig):
        hessian.execution.release()  # the trace runs on groups of its own
    grad_norm = float(hessian.space.norm(gradient))
    del gradient
    stopped: BaseException | None = None
    result: EigenvaluesResult | TraceResult
    try:
        if isinstance(analysis, EigsConfig):
            result = eigenvalues(
                hessian,
                analysis.k,
                which=analysis.which,
                method=analysis.method,
                rtol=analysis.rtol,
                max_passes=analysis.max_passes,
                memory_budget=budget // 2,
                seed=config.compute.seed,
                observer=observer,
            )
        else:
            result = trace(
                hessian,
                rtol=analysis.rtol,
                max_passes=analysis.max_passes,
                seed=config.compute.seed,
                observer=observer,
            )
    except Interrupted as stop:
        if stop.partial is None:
            raise stop.cause from None
        result, stopped = stop.partial, stop.cause
    noise = checks.noise_floor
    if noise is not None and noise > analysis.rtol:
        warnings.append(
            report.Warning(
                code="CT205",
                message=f"the noise of {records.dtype_name(problem)} products ({noise:.1e}) is above "
                f"rtol {analysis.rtol:g}: --dtype float64 for better numbers",
            )
        )
    if _is_zero(result):
        warnings.append(
            report.Warning(
                code="CT207",
                message="every product was exactly zero: the loss does not depend on these parameters "
                "(is --output-key right?), is linear in them, or is saturated",
            )
        )
    peak = peak_bytes(problem.device)
    found: report.Analysis
    if isinstance(result, EigenvaluesResult):
        assert isinstance(analysis, EigsConfig)
        found = records.eigs_report(result, analysis, noise, peak)
        if result.check_discrepancy is not None and found.eigenvalues:
            scale = max(abs(e.value) for e in found.eigenvalues)
            if result.check_discrepancy > max(analysis.rtol, noise or 0.0) * scale:
                warnings.append(
                    report.Warning(
                        code="CT206",
                        message=f"the closing product is off by {result.check_discrepancy:.1e}: products do not "
                        "repeat, or the matrix is not symmetric; the residuals say so",
                    )
                )
    else:
        assert isinstance(analysis, TraceConfig)
        found = records.trace_report(result, analysis, peak)
    modes = {"ad_mode": hessian.execution.describe(), "batch_size": hessian.batch_size}
    return found, records.summary(loaded, checks, loss_value, grad_norm), modes, stopped


def _is_zero(result: EigenvaluesResult | TraceResult) -> bool:
    if isinstance(result, TraceResult):
        return result.value == 0.0 and result.stderr in (None, 0.0)
    return all(pair.value == 0.0 for pair in result.eigenvalues)


def _jacobian_run(config: RunConfig, loaded: Loaded, observer: Observer, warnings: list[report.Warning]) -> _Run:
    problem, analysis = loaded.problem, config.analysis
    assert isinstance(analysis, JacnormConfig)
    jacobian = InputJacobian(
        problem,
        batch_size=settings.batch_size(config),
        memory_budget=settings.memory_budget(config, problem.device),
    )
    observer.begin("preflight on a small batch")
    checks = preflight_jacobian(problem)
    stopped: BaseException | None = None
    try:
        result = jacobian_norms(
            jacobian, norm=analysis.norm, top=analysis.top, seed=config.compute.seed, observer=observer
        )
    except Interrupted as stop:
        if stop.partial is None:
            raise stop.cause from None
        result, stopped = stop.partial, stop.cause
    noise = checks.noise_floor
    if stopped is None and noise is not None and problem.dtype != torch.float64 and result.top_exact and result.top:
        try:
            observer.begin("the listed examples in float64")
            noise = max(noise, _noise_of_listed(problem, result, analysis.norm))
        except (CurvtoolError, KeyboardInterrupt) as stop:
            stopped = stop  # the norms are there: they are reported
        except Interrupted as stop:
            stopped = stop.cause
        checks = dataclasses.replace(checks, noise_floor=noise)
    if checks.noise_floor is not None and checks.noise_floor > 1e-3:
        warnings.append(
            report.Warning(
                code="CT205",
                message=f"norms in {records.dtype_name(problem)} differ from float64 by up to "
                f"{checks.noise_floor:.1e} (kinks of ReLU that rounding crosses): --dtype float64 for better numbers",
            )
        )
    if analysis.per_example:
        try:
            records.write_examples(Path(analysis.per_example), result)
        except UsageError as error:
            stopped = stopped or error
    found = records.jacnorm_report(result, analysis, peak_bytes(problem.device))
    modes = {"ad_mode": "vector-Jacobian products", "batch_size": jacobian.batch_size}
    return found, records.summary(loaded, checks, None, None), modes, stopped


def _noise_of_listed(problem: Problem, result: JacobianNormsResult, norm: str) -> float:
    """How far the listed examples' norms are from float64, relative.

    A kink that rounding crosses shows in a few examples alone, and those listed are the ones that are quoted.
    """
    listed = list(result.top)
    exact = InputJacobian(problem.restricted(listed, torch.float64), batch_size=1)
    true = jacobian_norms(exact, norm=norm, top=0, max_exact_outputs=exact.output_dim)
    noise = 0.0
    for found, wanted in ((result.frobenius, true.frobenius), (result.spectral, true.spectral)):
        if found is not None and wanted is not None:
            noise = max(noise, float((abs(found[listed] - wanted) / wanted.clip(1e-300)).max()))
    return noise
