"""The `trace` analysis: from its settings to its record."""

from __future__ import annotations

from curvtool.config.schema import TraceConfig
from curvtool.estimators.trace import TraceResult, trace
from curvtool.operators.memory import peak_bytes
from curvtool.pipeline.records import cost_record
from curvtool.pipeline.stage import Stage
from curvtool.report import model as report


def run_trace(stage: Stage, analysis: TraceConfig) -> report.Trace:
    """The trace of the chosen matrix, and each parameter's where asked for."""
    operator = stage.checked_operator(analysis.operator, group_size=analysis.probe_group)
    operator.execution.release()  # the trace runs on groups of its own
    result = stage.estimate(
        lambda: trace(
            operator,
            rtol=analysis.rtol,
            max_passes=analysis.max_passes,
            seed=stage.config.compute.seed,
            observer=stage.observer,
        )
    )
    stage.close(operator, result.value == 0.0 and result.stderr in (None, 0.0), analysis.rtol)
    return _record(stage, analysis, result)


def _record(stage: Stage, analysis: TraceConfig, result: TraceResult) -> report.Trace:
    missing = "an interval needs two passes"
    return report.Trace(
        operator=analysis.operator,
        method="hutchinson",
        rtol=analysis.rtol,
        converged=result.converged,
        value=result.value,
        stderr=result.stderr,
        ci95=result.ci95,
        num_passes=result.num_passes,
        num_terms=result.num_terms,
        cost=cost_record(result.cost, peak_bytes(stage.problem.device)),
        unavailable={"per_parameter": "not asked for"}
        | ({"ci95": missing, "stderr": missing} if result.ci95 is None else {}),
    )
