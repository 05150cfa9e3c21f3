"""What a trace would cost: an order of magnitude."""

from __future__ import annotations

from curvtool.analyses.trace.settings import Settings
from curvtool.linalg.space import VectorSpace
from curvtool.operators.curvature import CurvatureOperator
from curvtool.planning.needs import Need


def need(settings: Settings, operator: CurvatureOperator, space: VectorSpace, budget: int) -> Need:
    """Passes of probes; with a known space where many are needed."""
    if settings.method == "exact":
        return Need(float(operator.diagonal_cost), 1, exchanged=False)
    note = "passes depend on the spectrum, and on rtol"
    passes = 10 * (0.05 / settings.rtol) ** 2
    if settings.rtol >= 0.03:
        return Need(passes, 1, exchanged=False, notes=[note])
    half = 2 * passes**0.5
    return Need(2 * half, int(half), rows_met=half / 2, notes=[note])
