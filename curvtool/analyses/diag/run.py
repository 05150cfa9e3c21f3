"""The `diag` analysis: from its settings to its record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from curvtool.analyses.diag.record import Diag, EntriesSummary
from curvtool.analyses.diag.settings import Settings
from curvtool.estimators.accuracy.entries import share_below_zero, stderr_of_mean
from curvtool.estimators.diagonal import DiagonalResult, diagonal
from curvtool.operators.curvature import CurvatureOperator
from curvtool.operators.memory import peak_bytes
from curvtool.problem.vectors import to_bytes
from curvtool.report.write import check_writable, write_atomic
from curvtool.session.common_warnings import add_common_warnings
from curvtool.session.records import cost_record, finite_degrees
from curvtool.session.stage import Stage


def run(stage: Stage, analysis: Settings) -> Diag:
    """The diagonal of the chosen matrix, and its file."""
    if analysis.out is not None:
        stage.cluster.first(lambda: check_writable(Path(str(analysis.out))))
    operator = stage.checked_operator(analysis.operator, group_size=analysis.probe_group)
    operator.execution.release()  # the probes run on groups of their own
    result = stage.estimate(
        "diagonal",
        operator,
        lambda: diagonal(
            operator,
            method=analysis.method,
            rtol=analysis.rtol,
            max_passes=analysis.max_passes,
            seed=stage.config.compute.seed,
            noise=stage.noise,
            observer=stage.observer,
        ),
    )
    add_common_warnings(stage, operator, not stage.cluster.any(bool(result.diagonal.any())), analysis.rtol)
    result = replace(result, diagonal=operator.space.whole(result.diagonal), stderr=_whole(operator, result.stderr))
    written = None
    if analysis.out is not None:
        written = analysis.out
        stage.save(lambda: _write(Path(str(analysis.out)), result, operator, stage))
    return _record(stage, analysis, result, operator, written)


def _write(path: Path, result: DiagonalResult, operator: CurvatureOperator, stage: Stage) -> None:
    """The entries by parameter name, and their standard errors as `stderr/NAME`."""
    tensors = dict(operator.by_parameter(result.diagonal))
    if result.stderr is not None:
        tensors |= {f"stderr/{name}": part for name, part in operator.by_parameter(result.stderr).items()}
    metadata = {
        "what": f"diagonal of the {operator.name}, and the standard error of every entry",
        "method": result.method,
        "num_passes": str(result.num_passes),
        "degrees of freedom of stderr": f"{result.entry_degrees or 0:.6g}",
        "model": stage.loaded.model_name,
    }
    host = {name: t.cpu().contiguous() for name, t in tensors.items()}
    stage.cluster.first(lambda: write_atomic(path, to_bytes(host, metadata)))


def _whole(operator: CurvatureOperator, vector: torch.Tensor | None) -> torch.Tensor | None:
    return None if vector is None else operator.space.whole(vector)


def _record(
    stage: Stage, analysis: Settings, result: DiagonalResult, operator: CurvatureOperator, written: str | None
) -> Diag:
    unavailable = {}
    if written is None:
        unavailable["file"] = "no --out"
    if result.sum_stderr is None:
        unavailable["sum_stderr"] = "an error needs two passes, and five where one group of samples decides"
    if result.relative_error is None:
        unavailable["relative_error"] = "too few passes, or a diagonal that is not told from zero"
    errors = {} if result.stderr is None else dict(operator.by_parameter(result.stderr))
    degrees, reason = finite_degrees(result.degrees)
    if reason:
        unavailable["degrees_of_freedom"] = reason
    return Diag.of(
        result,
        analysis,
        method_reason=result.reason,
        file=written,
        degrees_of_freedom=degrees,
        arithmetic_error=result.arithmetic,
        summary=_summary(result.diagonal, result.stderr, result),
        per_parameter={
            name: _summary(part, errors.get(name), result)
            for name, part in operator.by_parameter(result.diagonal).items()
        },
        cost=cost_record(result.cost, peak_bytes(stage.problem.device)),
        unavailable=unavailable,
    )


def _summary(entries: torch.Tensor, stderr: torch.Tensor | None, result: DiagonalResult) -> EntriesSummary:
    facts = torch.stack([entries.mean(), entries.min(), entries.max(), (entries < 0).to(entries.dtype).mean()])
    mean, low, high, negative = facts.to("cpu", torch.float64).tolist()
    interval, spread = None, None
    if stderr is not None and result.entry_degrees is not None:
        interval = share_below_zero(entries, stderr, result.entry_degrees)
        spread = 0.0 if result.method == "exact" else stderr_of_mean(stderr)
    return EntriesSummary(
        mean=mean,
        mean_stderr=spread,
        min=low,
        max=high,
        negative=negative,
        negative_interval=interval,
        num=entries.numel(),
    )
