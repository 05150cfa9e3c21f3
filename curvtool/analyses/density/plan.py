"""What a spectral density would cost: an order of magnitude."""

from __future__ import annotations

from curvtool.analyses.density.settings import Settings
from curvtool.estimators.density import is_small
from curvtool.linalg.space import VectorSpace
from curvtool.operators.curvature import CurvatureOperator
from curvtool.planning.needs import Need


def need(settings: Settings, operator: CurvatureOperator, space: VectorSpace, budget: int) -> Need:
    """A column of the matrix a product where it is small, else steps of Lanczos from each probe."""
    probes, steps = settings.probes, settings.steps
    small = is_small(space, probes, steps, budget // 2)
    if settings.method == "exact" or (settings.method == "auto" and small):
        return Need(float(space.dim), space.dim, notes=["a product a column of the whole matrix"])
    together = max(1, min(probes, operator.block_width, budget // 2 // (steps * space.vector_bytes)))
    note = "probes times steps, the outliers, and a trace to compare with"
    products = probes * steps + 5.0 * settings.outliers + 10
    return Need(products, steps * together, rows_met=steps / 2, notes=[note])
