"""What a comparison with other tools would cost: an order of magnitude."""

from __future__ import annotations

from curvtool.analyses.verify.settings import Settings
from curvtool.linalg.space import VectorSpace
from curvtool.operators.curvature import CurvatureOperator
from curvtool.planning.needs import Need


def need(settings: Settings, operator: CurvatureOperator, space: VectorSpace, budget: int) -> Need:
    """Of curvtool's own search and trace."""
    note = "curvtool's own; the dense matrix takes a product a parameter, PyHessian often hundreds"
    return Need(3.0 * settings.k + 15, 20, rows_met=10, notes=[note])
