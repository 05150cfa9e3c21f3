"""What a search for eigenvalues would cost: an order of magnitude."""

from __future__ import annotations

from curvtool.analyses.eigs.settings import Settings
from curvtool.device import is_host
from curvtool.estimators.request import BESIDE, Request, basis_size, storage_for
from curvtool.linalg.space import VectorSpace
from curvtool.operators.curvature import CurvatureOperator
from curvtool.planning.needs import Need


def need(settings: Settings, operator: CurvatureOperator, space: VectorSpace, budget: int) -> Need:
    """Three products a pair and a few; the closing check on several ranks takes one a pair in the place of one."""
    request = Request(
        settings.k,
        settings.which or "la",
        block_size=settings.block_size,
        memory_budget=budget // 2,
        basis=settings.basis,
    )
    room = settings.max_basis or basis_size(space, request)
    coarse = {
        "bfloat16": 2 / space.dtype.itemsize,
        "host": 1.0 if is_host(space.device) else 0.0,
    }
    storage = storage_for(space, request)
    beside = BESIDE if settings.check != "none" and storage != "bfloat16" else 0
    steps = 3.0 * request.num_wanted + 3
    checks = request.num_wanted - 1 if space.cluster.size > 1 else 0
    return Need(
        steps + checks,
        int((room + beside) * coarse.get(storage, 1.0)),
        rows_met=min(steps / 2, 0.75 * room),  # it grows from nothing, then from a half to the whole
        notes=["well separated largest eigenvalues; smallest or clustered ones take several times as many"],
    )
