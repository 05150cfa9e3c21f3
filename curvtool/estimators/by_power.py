"""The eigenvalues of largest magnitude by deflated power iteration."""

from __future__ import annotations

import torch

from curvtool.errors import CurvtoolError, Interrupted
from curvtool.estimators.cost import Meter
from curvtool.estimators.eigenpairs import ROUNDING, ROUNDING_STEPS, Eigenvalue, EigenvaluesResult
from curvtool.estimators.observer import Observer
from curvtool.linalg.power import PowerState, power_iteration
from curvtool.operators.base import LinearOperator


def by_power(
    operator: LinearOperator, k: int, rtol: float, max_passes: int, seed: int, observer: Observer
) -> EigenvaluesResult:
    """See `eigenvalues`, which checks the arguments."""
    meter = Meter(operator)
    space = operator.space
    found: list[Eigenvalue] = []
    vectors = space.empty(k)
    state: PowerState | None = None
    observer.begin("eigenvalues (power iteration)")

    def close(state: PowerState, converged: bool) -> None:
        vectors[len(found)] = state.vector
        rounding = ROUNDING * space.eps * max([abs(state.value), *(abs(e.value) for e in found)])
        found.append(Eigenvalue(state.value, state.residual_norm, 0.0, converged, rounding=rounding))

    def result() -> EigenvaluesResult:
        order = sorted(range(len(found)), key=lambda i: -abs(found[i].value))
        ordered = tuple(found[i] for i in order)
        whole = len(found) == k and all(e.converged for e in found)
        return EigenvaluesResult(
            ordered, torch.stack([vectors[i] for i in order]), "lm", "power", whole, None, meter.cost()
        )

    try:
        for index in range(k):
            for state in power_iteration(operator.matvec, space, vectors[:index], space.generator(seed, 3, index)):
                largest = max([abs(state.value), *(abs(e.value) for e in found)])
                converged = state.residual_norm <= max(rtol * abs(state.value), ROUNDING_STEPS * space.eps * largest)
                observer.advance(
                    meter.products, f"lambda_{index + 1} {state.value:.5g} +- {state.residual_norm:.1e}", None
                )
                if converged or meter.products >= max_passes:
                    close(state, converged)
                    break
            state = None
            if not found[-1].converged:
                break
    except (CurvtoolError, KeyboardInterrupt) as stop:
        if state is not None and len(found) < k:
            close(state, False)
        raise Interrupted(result() if found else None, stop) from stop
    return result()
