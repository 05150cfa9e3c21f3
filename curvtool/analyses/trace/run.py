"""The `trace` analysis: from its settings to its record."""

from __future__ import annotations

from curvtool.analyses.trace import record
from curvtool.analyses.trace.settings import Settings
from curvtool.estimators.trace import TraceResult, trace
from curvtool.estimators.trace_by_probes import Blocks, BlockTrace
from curvtool.operators.memory import peak_bytes
from curvtool.problem.problem import Problem
from curvtool.session.common_warnings import add_common_warnings
from curvtool.session.records import cost_record, finite_degrees
from curvtool.session.stage import Stage

_PARAMETER, _LAYER = "parameter ", "layer "  # kinds of blocks: a module and a parameter may share a name
_NO_INTERVAL = "an interval needs two passes"
_TOO_FEW = "one group of samples decides, and fewer than five passes cannot show its spread"


def run(stage: Stage, analysis: Settings) -> record.Trace:
    """The trace of the chosen matrix, and each layer's where asked for."""
    operator = stage.checked_operator(analysis.operator, group_size=analysis.probe_group)
    known = stage.shared.pairs.get(analysis.operator)
    operator.execution.release()  # the trace runs on groups of its own
    result = stage.estimate(
        "trace",
        operator,
        lambda: trace(
            operator,
            method=analysis.method,
            rtol=analysis.rtol,
            max_passes=analysis.max_passes,
            rank=analysis.rank,
            blocks=_blocks(stage.problem) if analysis.per_layer else None,
            eigenpairs=None if known is None else (known.values, known.vectors),
            memory_budget=stage.budget // 2,
            seed=stage.config.compute.seed,
            noise=stage.noise,
            observer=stage.observer,
        ),
    )
    add_common_warnings(stage, operator, result.scale == 0.0, analysis.rtol)
    return _record(stage, analysis, result)


def _blocks(problem: Problem) -> Blocks:
    """Every parameter, and every layer that has more than one."""
    places = {name: index for index, name in enumerate(problem.parameters)}
    members = {_PARAMETER + name: [index] for name, index in places.items()}
    members |= {_LAYER + layer: [places[name] for name in names] for layer, names in problem.layers().items()}
    return Blocks([shape.numel() for shape in problem.shapes.values()], members)


def _record(stage: Stage, analysis: Settings, result: TraceResult) -> record.Trace:
    missing = _NO_INTERVAL if result.num_passes < 2 else _TOO_FEW
    unavailable: dict[str, str] = {}
    if result.blocks is None:
        unavailable |= dict.fromkeys(("per_parameter", "per_layer"), "not asked for")
    if result.ci95 is None:
        unavailable |= {"ci95": missing, "stderr": missing}
    degrees, reason = finite_degrees(result.degrees)
    if reason:
        unavailable["degrees_of_freedom"] = reason
    shapes = stage.problem.shapes
    sizes = {_PARAMETER + name: shape.numel() for name, shape in shapes.items()}
    sizes |= {
        _LAYER + layer: sum(shapes[name].numel() for name in names) for layer, names in stage.problem.layers().items()
    }
    return record.Trace.of(
        result,
        analysis,
        method_reason=result.reason,
        degrees_of_freedom=degrees,
        arithmetic_error=result.arithmetic,
        per_parameter=_block_records(result, _PARAMETER, sizes),
        per_layer=_block_records(result, _LAYER, sizes),
        cost=cost_record(result.cost, peak_bytes(stage.problem.device)),
        unavailable=unavailable,
    )


def _block_records(result: TraceResult, kind: str, sizes: dict[str, int]) -> dict[str, record.BlockTrace] | None:
    if result.blocks is None:
        return None
    return {
        name.removeprefix(kind): _block_record(block, sizes[name], result.num_passes)
        for name, block in result.blocks.items()
        if name.startswith(kind)
    }


def _block_record(block: BlockTrace, num_params: int, num_passes: int) -> record.BlockTrace:
    missing = "an error needs two passes" if num_passes < 2 else _TOO_FEW
    unavailable = {} if block.stderr is not None else {"stderr": missing}
    degrees, reason = finite_degrees(block.degrees)
    if reason:
        unavailable["degrees_of_freedom"] = reason
    return record.BlockTrace.of(
        block,
        degrees_of_freedom=degrees,
        arithmetic_error=block.arithmetic,
        num_params=num_params,
        unavailable=unavailable,
    )
