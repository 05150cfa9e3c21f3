"""How many products and vectors an analysis asks for: orders of magnitude, for plans."""

from __future__ import annotations

from dataclasses import dataclass, field

from curvtool.config.analyses import (
    Analysis,
    CheckConfig,
    DensityConfig,
    DiagConfig,
    EigsConfig,
    TraceConfig,
    VerifyConfig,
)
from curvtool.estimators.density import is_small
from curvtool.estimators.request import Request, basis_size, storage_for
from curvtool.linalg.space import VectorSpace
from curvtool.operators.curvature import CurvatureOperator


@dataclass(frozen=True)
class Need:
    """What an analysis asks for.

    Attributes:
        products: a typical number of them.
        basis: vectors that it keeps, as many as take the room of uncompressed ones on the device.
        rows_met: kept vectors that a new one is made orthogonal to, on average.
        exchanged: whether its vectors are cut over the ranks; each group of samples has a probe of its own otherwise.
        notes: for the reader.
    """

    products: float
    basis: int
    rows_met: float = 0.0
    exchanged: bool = True
    notes: list[str] = field(default_factory=list)


def need_of(analysis: Analysis, operator: CurvatureOperator, space: VectorSpace, budget: int) -> Need:
    """How many products and vectors, in the space of the ranks."""
    match analysis:
        case EigsConfig():
            return _need_of_eigenvalues(analysis, space, budget)
        case DensityConfig():
            return _need_of_density(analysis, operator, space, budget)
        case DiagConfig():
            note = "passes grow as 1/rtol^2 and depend on the spectrum"
            products = min(20 * (0.1 / analysis.rtol) ** 2, float(operator.diagonal_cost))
            return Need(products, 4, exchanged=False, notes=[note])
        case CheckConfig():
            return Need(12.0, 4, exchanged=False)
        case VerifyConfig():
            note = "curvtool's own; the dense matrix takes a product a parameter, PyHessian often hundreds"
            return Need(3.0 * analysis.k + 15, 20, rows_met=10, notes=[note])
        case TraceConfig():
            note = "passes depend on the spectrum, and on rtol"
            passes = 10 * (0.05 / analysis.rtol) ** 2
            if analysis.rtol >= 0.03:
                return Need(passes, 1, exchanged=False, notes=[note])
            half = 2 * passes**0.5
            return Need(2 * half, int(half), rows_met=half / 2, notes=[note])
    raise AssertionError(f"no plan for {analysis.kind}")


def _need_of_eigenvalues(analysis: EigsConfig, space: VectorSpace, budget: int) -> Need:
    """Three products a pair and a few; the closing check on several ranks takes one a pair in the place of one."""
    request = Request(
        analysis.k,
        analysis.which or "la",
        block_size=analysis.block_size,
        memory_budget=budget // 2,
        basis=analysis.basis,
    )
    room = analysis.max_basis or basis_size(space, request)
    coarse = {
        "bfloat16": 2 / space.dtype.itemsize,
        "host": 0.0 if space.device.type != "cpu" else 1.0,
    }
    steps = 3.0 * request.num_wanted + 3
    checks = request.num_wanted - 1 if space.cluster.size > 1 else 0
    return Need(
        steps + checks,
        int(room * coarse.get(storage_for(space, request), 1.0)),
        rows_met=min(steps / 2, 0.75 * room),  # it grows from nothing, then from a half to the whole
        notes=["well separated largest eigenvalues; smallest or clustered ones take several times as many"],
    )


def _need_of_density(analysis: DensityConfig, operator: CurvatureOperator, space: VectorSpace, budget: int) -> Need:
    """A column of the matrix a product where it is small, else steps of Lanczos from each probe."""
    probes, steps = analysis.probes, analysis.steps
    small = is_small(space, probes, steps, budget // 2)
    if analysis.method == "exact" or (analysis.method == "auto" and small):
        return Need(float(space.dim), space.dim, notes=["a product a column of the whole matrix"])
    together = max(1, min(probes, operator.block_width, budget // 2 // (steps * space.vector_bytes)))
    note = "probes times steps, the outliers, and a trace to compare with"
    products = probes * steps + 5.0 * analysis.outliers + 10
    return Need(products, steps * together, rows_met=steps / 2, notes=[note])
