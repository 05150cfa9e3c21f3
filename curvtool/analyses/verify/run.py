"""The `verify` analysis: the same numbers by other ways, side by side, and a verdict."""

from __future__ import annotations

import math
from typing import Any

from curvtool.analyses.verify.record import Verify, Way
from curvtool.analyses.verify.reference import Reference, by_dense, by_pyhessian
from curvtool.analyses.verify.settings import Settings
from curvtool.errors import UsageError
from curvtool.estimators.cost import Meter
from curvtool.estimators.eigenvalues import eigenvalues
from curvtool.estimators.trace import trace
from curvtool.operators.memory import peak_bytes
from curvtool.session.common_warnings import add_common_warnings
from curvtool.session.records import cost_record
from curvtool.session.stage import Stage
from curvtool.words import counted

PYHESSIAN_TOLERANCE = 0.01  # of its eigenvalues: it stops at a relative change of 1e-3, which says less
_TRACE_RTOL = 0.05
PYHESSIAN_TRACE = 0.2  # of its trace: up to 19 % off were seen at its default tolerance
_OF_PYHESSIAN = "PyHessian states none: 1 % of an eigenvalue and 20 % of the trace are allowed"


def run(stage: Stage, analysis: Settings) -> Verify:
    """Our numbers, then the dense matrix's where it is small enough, and PyHessian's."""
    tools = [tool.strip() for tool in analysis.tools.split(",")]
    if stage.cluster.size > 1:
        raise UsageError(
            "CT003",
            "verify runs as one process",
            expected="one, as the tools that it compares with",
            received=f"{counted(stage.cluster.size, 'rank')}",
            remedy="start it without torchrun or srun",
        )
    operator = stage.checked_operator("hessian")
    meter, seed = Meter(operator), stage.config.compute.seed
    budget = stage.budget // 2
    k = stage.fitting(analysis.k, operator.space.dim)
    options: dict[str, Any] = {"memory_budget": budget, "seed": seed, "observer": stage.observer}
    found = stage.estimate(
        "eigenvalues",
        operator,
        lambda: eigenvalues(operator, k, rtol=analysis.rtol, noise=stage.noise, **options),
    )
    operator.execution.release()
    total = stage.estimate("trace", operator, lambda: trace(operator, rtol=_TRACE_RTOL, noise=stage.noise, **options))
    pairs = found.eigenvalues
    half = (total.ci95[1] - total.ci95[0]) / 2 if total.ci95 is not None else math.inf
    cost = meter.cost(found.cost.check_hvps)
    ways = [
        Way(
            tool="curvtool",
            eigenvalues=[pair.value for pair in pairs],
            eigenvalue_errors=[pair.error_bound for pair in pairs],
            trace=total.value,
            trace_error=half,
            num_hvps=cost.num_hvps,
            seconds=cost.seconds,
            agrees=None,
            notes=[],
            unavailable={"agrees": "what the others are compared with"},
        )
    ]
    add_common_warnings(stage, operator, all(pair.value == 0.0 for pair in pairs), analysis.rtol)
    for tool in tools:
        stage.attempt(lambda tool=tool: _add(stage, analysis, tool, ways))  # type: ignore[misc]
    ours, others = ways[0], ways[1:]
    judged = [way for way in others if way.agrees is not None]
    verdict = _verdict(ours, judged)
    if any(way.agrees is False for way in judged):
        stage.warn("CT212", verdict)
    return Verify(
        operator="hessian",
        converged=found.converged and total.converged,
        ways=ways,
        verdict=verdict,
        contradicted=any(not way.agrees for way in _decisive(judged)),
        cost=cost_record(cost, peak_bytes(stage.problem.device)),
    )


def _add(stage: Stage, analysis: Settings, tool: str, ways: list[Way]) -> None:
    made = stage.make_operator("hessian")
    stage.observer.begin(tool)
    if tool == "dense":
        if made.space.dim > analysis.max_dense:
            stage.warn("CT213", f"{made.space.dim:,} parameters are too many for the dense matrix (--max-dense)")
            return
        reference = by_dense(made, len(ways[0].eigenvalues))
        tolerances = (0.0, 0.0)
    else:
        reference = by_pyhessian(stage.problem, made.batch_size, len(ways[0].eigenvalues), stage.config.compute.seed)
        tolerances = (PYHESSIAN_TOLERANCE, PYHESSIAN_TRACE)
    ways.append(_compare(ways[0], reference, stage.noise, *tolerances))


def _compare(ours: Way, other: Reference, noise: float, rtol: float, trace_rtol: float) -> Way:
    """Whether every number agrees within our error, the noise of both, and what the other may be off by."""
    notes = list(other.notes)
    scale = max((abs(v) for v in other.eigenvalues), default=0.0)
    agrees = True
    if other.tool == "pyhessian" and any(v < 0 for v in other.eigenvalues):
        notes.append("power iteration finds the largest magnitudes: negative ones are not the largest eigenvalues")
    pairs = zip(ours.eigenvalues, ours.eigenvalue_errors, other.eigenvalues, strict=False)
    for place, (value, error, theirs) in enumerate(pairs, 1):
        if abs(value - theirs) > error + 4 * noise * scale + rtol * abs(theirs):
            agrees = False
            notes.append(f"eigenvalue {place}: {theirs:.6g}, ours {value:.6g} +- {error:.1g}")
    slack = 1.5 * (ours.trace_error or 0.0) + 4 * noise * scale + trace_rtol * abs(other.trace)
    if abs(ours.trace - other.trace) > slack:
        agrees = False
        notes.append(f"trace: {other.trace:.6g}, ours {ours.trace:.6g} +- {ours.trace_error:.1g}")
    return Way(
        tool=other.tool,
        eigenvalues=other.eigenvalues,
        eigenvalue_errors=[],
        trace=other.trace,
        trace_error=None,
        num_hvps=other.num_hvps,
        seconds=other.seconds,
        agrees=agrees,
        notes=notes,
        unavailable={"trace_error": "the tool tells none" if other.tool == "pyhessian" else "rounding alone"},
    )


def _decisive(judged: list[Way]) -> list[Way]:
    """The dense matrix, which has rounding alone, where it was made."""
    return [way for way in judged if way.tool == "dense"] or judged


def _verdict(ours: Way, judged: list[Way]) -> str:
    if not judged:
        return "nothing to compare with"
    by_tool = {way.tool: way for way in judged}
    names = {"dense": "the dense matrix", "pyhessian": "PyHessian"}
    wrong = [names[tool] for tool, way in by_tool.items() if not way.agrees]
    right = [names[tool] for tool, way in by_tool.items() if way.agrees]
    if not wrong:
        text = f"{' and '.join(right)} agree{'s' if len(right) == 1 else ''} within the errors"
        return text + (f" ({_OF_PYHESSIAN})" if "pyhessian" in by_tool else "")
    if "dense" in by_tool and by_tool["dense"].agrees:
        return (
            "the dense matrix agrees with curvtool, PyHessian does not: it stops at a small change, not a small error"
        )
    told = f"{' and '.join(wrong)} disagree{'s' if len(wrong) == 1 else ''} with curvtool beyond the errors"
    return told + (" (PyHessian stops at a small change, not at a small error)" if wrong == ["PyHessian"] else "")
