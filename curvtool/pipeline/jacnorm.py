"""The `jacnorm` analysis: from its settings to its record."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import torch

from curvtool.config.schema import JacnormConfig
from curvtool.errors import UsageError
from curvtool.estimators.jacobian_norms import JacobianNormsResult, jacobian_norms
from curvtool.operators.jacobian import InputJacobian
from curvtool.operators.memory import peak_bytes
from curvtool.operators.preflight import preflight_jacobian
from curvtool.pipeline import settings
from curvtool.pipeline.records import cost_record
from curvtool.pipeline.stage import Stage
from curvtool.problem.problem import Problem
from curvtool.report import model as report
from curvtool.report.write import check_writable, write_atomic


def run_jacnorm(stage: Stage, analysis: JacnormConfig) -> report.JacNorm:
    """Norms of every example's input-output Jacobian."""
    problem = stage.problem
    if analysis.per_example:
        check_writable(Path(analysis.per_example))
    jacobian = InputJacobian(problem, batch_size=settings.batch_size(stage.config), memory_budget=stage.budget)
    stage.observer.begin("preflight on a small batch")
    stage.checks = preflight_jacobian(problem)
    stage.modes = {"ad_mode": "vector-Jacobian products", "batch_size": jacobian.batch_size}
    result = stage.estimate(
        lambda: jacobian_norms(
            jacobian, norm=analysis.norm, top=analysis.top, seed=stage.config.compute.seed, observer=stage.observer
        )
    )
    measured = stage.checks.noise_floor is not None and problem.dtype != torch.float64
    if measured and result.top_exact and result.top:
        stage.attempt(lambda: _check_listed(stage, result, analysis.norm))
    if stage.noise > 1e-3:
        stage.warn(
            "CT205",
            f"norms in {stage.dtype_name} differ from float64 by up to {stage.noise:.1e} (kinks of ReLU that rounding "
            "crosses): --dtype float64 for better numbers",
        )
    if analysis.per_example:
        _write_or_tell(stage, Path(analysis.per_example), result)
    return _record(result, analysis, peak_bytes(problem.device))


def _check_listed(stage: Stage, result: JacobianNormsResult, norm: str) -> None:
    """The noise floor covers the listed examples too."""
    assert stage.checks is not None
    stage.observer.begin("the listed examples in float64")
    noise = max(stage.noise, _noise_of_listed(stage.problem, result, norm))
    stage.checks = dataclasses.replace(stage.checks, noise_floor=noise)


def _write_or_tell(stage: Stage, path: Path, result: JacobianNormsResult) -> None:
    """What there is is written also after a stop."""
    try:
        _write_examples(path, result)
    except UsageError as error:
        stage.stopped = stage.stopped or error


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


def _record(result: JacobianNormsResult, analysis: JacnormConfig, peak: int) -> report.JacNorm:
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
        cost=cost_record(result.cost, peak),
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


def _write_examples(path: Path, result: JacobianNormsResult) -> None:
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
