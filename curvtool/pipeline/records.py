"""From results to the records of the report."""

from __future__ import annotations

import datetime
import io
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from curvtool.config.schema import EigsConfig, JacnormConfig, RunConfig, TraceConfig
from curvtool.estimators.cost import Cost
from curvtool.estimators.eigenpairs import Eigenvalue, EigenvaluesResult
from curvtool.estimators.jacobian_norms import JacobianNormsResult
from curvtool.estimators.trace import TraceResult
from curvtool.operators.preflight import Preflight
from curvtool.pipeline.settings import Loaded
from curvtool.problem.problem import Problem
from curvtool.report import model as report
from curvtool.report.provenance import environment
from curvtool.report.write import write_atomic


def dtype_name(problem: Problem) -> str:
    """The working dtype as a user types it."""
    return str(problem.dtype).removeprefix("torch.")


def eigs_report(result: EigenvaluesResult, analysis: EigsConfig, noise: float | None, peak: int) -> report.Eigs:
    """The record of an `eigs` analysis; no error below the noise floor is claimed."""
    return report.Eigs(
        operator="hessian",
        which=result.which,
        method=result.method,
        rtol=analysis.rtol,
        converged=result.converged,
        eigenvalues=[_eigenvalue_report(pair, noise or 0.0) for pair in result.eigenvalues],
        check_discrepancy=result.check_discrepancy,
        cost=_cost_report(result.cost, peak),
        unavailable={
            "per_layer": "not asked for",
            **({} if result.check_discrepancy is not None else {"check_discrepancy": "no closing product was made"}),
        },
    )


def _eigenvalue_report(pair: Eigenvalue, noise: float) -> report.Eigenvalue:
    floor = noise * abs(pair.value)
    below = pair.error_bound < floor
    residual = max(pair.residual_norm, floor)
    return report.Eigenvalue(
        value=pair.value,
        error_bound=floor if below else pair.error_bound,
        bound_kind="noise" if below else pair.bound_kind,
        residual_norm=residual,
        relative_residual=residual / abs(pair.value) if pair.value else math.inf,
        data_stderr=None,
        converged=pair.converged,
        unavailable={"data_stderr": "not measured"},
    )


def trace_report(result: TraceResult, analysis: TraceConfig, peak: int) -> report.Trace:
    """The record of a `trace` analysis."""
    missing = "an interval needs two passes"
    return report.Trace(
        operator="hessian",
        method="hutchinson",
        rtol=analysis.rtol,
        converged=result.converged,
        value=result.value,
        stderr=result.stderr,
        ci95=result.ci95,
        num_passes=result.num_passes,
        num_terms=result.num_terms,
        cost=_cost_report(result.cost, peak),
        unavailable={"per_parameter": "not asked for"}
        | ({"ci95": missing, "stderr": missing} if result.ci95 is None else {}),
    )


def jacnorm_report(result: JacobianNormsResult, analysis: JacnormConfig, peak: int) -> report.JacNorm:
    """The record of a `jacnorm` analysis."""

    def at(values: np.ndarray | None, index: int) -> float | None:
        return None if values is None else float(values[index])

    def largest(values: np.ndarray | None) -> float | None:
        return None if values is None else float(values.max())

    unavailable: dict[str, str] = {}
    for norm in ("frobenius", "spectral"):
        if getattr(result, norm) is None:
            unavailable[norm] = f"--norm {analysis.norm}"
    if result.frobenius_stderr is None:
        unavailable["frobenius_max_stderr"] = "no probes took part"
    if result.spectral_error is None:
        unavailable["spectral_max_error"] = "no iteration took part"
    if analysis.per_example is None:
        unavailable["per_example_file"] = "not asked for"
    lead = result.spectral if result.spectral is not None else result.frobenius
    return report.JacNorm(
        converged=result.converged,
        num_examples=0 if lead is None else len(lead),
        output_dim=result.output_dim,
        input_dim=result.input_dim,
        frobenius=_distribution(result.frobenius),
        spectral=_distribution(result.spectral),
        frobenius_max_stderr=largest(result.frobenius_stderr),
        spectral_max_error=largest(result.spectral_error),
        top=[
            report.TopExample(
                index=i,
                frobenius=at(result.frobenius, i),
                spectral=at(result.spectral, i),
                unavailable={
                    n: f"--norm {analysis.norm}" for n in ("frobenius", "spectral") if getattr(result, n) is None
                },
            )
            for i in result.top
        ],
        exact=result.exact,
        top_exact=result.top_exact,
        per_example_file=analysis.per_example,
        cost=_cost_report(result.cost, peak),
        unavailable=unavailable,
    )


def _distribution(values: np.ndarray | None) -> report.Summary | None:
    if values is None:
        return None
    return report.Summary(
        mean=float(values.mean()),
        std=float(values.std()),
        min=float(values.min()),
        median=float(np.median(values)),
        p95=float(np.percentile(values, 95)),
        max=float(values.max()),
    )


def _cost_report(cost: Cost, peak: int) -> report.Cost:
    return report.Cost(**asdict(cost), peak_bytes=peak)


def summary(
    loaded: Loaded, checks: Preflight, loss_value: float | None, grad_norm: float | None
) -> report.ProblemSummary:
    """What was measured, and what was checked and repaired first."""
    problem = loaded.problem
    repairs = ["evaluation mode", "attention by the math backend"]
    if not problem.tf32:
        repairs.append("TF32 off")
    has_loss = problem.loss is not None
    no_loss = dict.fromkeys(("weight", "loss", "reduction", "loss_value", "grad_norm"), "no loss takes part")
    return report.ProblemSummary(
        model=loaded.model_name,
        num_params=problem.num_params,
        num_trainable=sum(p.numel() for p in problem.parameters.values()),
        num_samples=problem.num_samples,
        weight=problem.total_weight if has_loss else None,
        loss=problem.loss.name if problem.loss is not None else None,
        reduction=problem.reduction if has_loss else None,
        loss_value=loss_value,
        grad_norm=grad_norm,
        preflight=report.PreflightChecks(
            num_samples=checks.num_samples,
            symmetry=checks.symmetry,
            finite_difference=checks.finite_difference,
            noise_floor=checks.noise_floor,
            repairs=repairs,
            unavailable=checks.unavailable,
        ),
        unavailable={} if has_loss else no_loss,
    )


def not_converged(analysis: report.Analysis) -> report.Warning:
    """The warning for an analysis that did not reach what was asked for."""
    if isinstance(analysis, report.Eigs):
        open_pairs = sum(not e.converged for e in analysis.eigenvalues)
        return report.Warning(
            code="CT201",
            message=f"{open_pairs} of {len(analysis.eigenvalues)} eigenvalues did not converge to rtol "
            f"{analysis.rtol:g} in {analysis.cost.solver_hvps:g} products: raise --max-passes or --rtol",
        )
    if isinstance(analysis, report.Trace):
        return report.Warning(
            code="CT202",
            message=f"the interval is wider than rtol {analysis.rtol:g} after {analysis.num_passes} passes: "
            "raise --max-passes or --rtol",
        )
    return report.Warning(
        code="CT201",
        message="some spectral norms did not converge: their errors are in the report (spectral_max_error)",
    )


def provenance(config: RunConfig, loaded: Loaded, modes: dict[str, Any], started: str) -> report.Provenance:
    """Where the numbers come from."""
    problem = loaded.problem
    settings = {name: asdict(getattr(config, name)) for name in ("model", "data", "loss", "params", "compute")}
    settings[config.analysis.kind] = asdict(config.analysis)
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
        **modes,
        argv=sys.argv[1:],
        config=settings,
        config_sources=config.sources,
        dtype=dtype_name(problem),
        tf32=problem.tf32,
        attention_backend="math",
        seed=config.compute.seed,
        parameters_include=config.params.include,
        parameters_exclude=config.params.exclude,
        checkpoint_sha256=loaded.checkpoint_sha256,
        data_fingerprint=problem.data.fingerprint(),
        started=started,
        ended=now(),
        unavailable=absent,
    )


def now() -> str:
    """The time in UTC, ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def write_examples(path: Path, result: JacobianNormsResult) -> None:
    """Every example's norms as .csv or .npz."""
    columns = {
        name: values
        for name in ("frobenius", "frobenius_stderr", "spectral", "spectral_error")
        if (values := getattr(result, name)) is not None
    }
    if path.suffix == ".npz":
        buffer = io.BytesIO()
        np.savez(buffer, **columns)
        write_atomic(path, buffer.getvalue())
        return
    lines = [",".join(["index", *columns])]
    lines += [
        ",".join([str(i), *(repr(float(v)) for v in row)]) for i, row in enumerate(zip(*columns.values(), strict=True))
    ]
    write_atomic(path, ("\n".join(lines) + "\n").encode())
