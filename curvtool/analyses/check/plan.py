"""What the preflight would cost: an order of magnitude."""

from __future__ import annotations

from curvtool.analyses.check.settings import Settings
from curvtool.linalg.space import VectorSpace
from curvtool.operators.curvature import CurvatureOperator
from curvtool.planning.needs import Need


def need(settings: Settings, operator: CurvatureOperator, space: VectorSpace, budget: int) -> Need:
    """A product by each mode, and a few to compare with."""
    return Need(12.0, 4, exchanged=False)
