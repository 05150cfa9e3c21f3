"""What a diagonal would cost: an order of magnitude."""

from __future__ import annotations

from curvtool.analyses.diag.settings import Settings
from curvtool.linalg.space import VectorSpace
from curvtool.operators.curvature import CurvatureOperator
from curvtool.planning.needs import Need


def need(settings: Settings, operator: CurvatureOperator, space: VectorSpace, budget: int) -> Need:
    """Passes of probes, or the exact way where it takes less."""
    note = "passes grow as 1/rtol^2 and depend on the spectrum"
    products = min(20 * (0.1 / settings.rtol) ** 2, float(operator.diagonal_cost))
    return Need(products, 4, exchanged=False, notes=[note])
