"""The eigenvalues of largest magnitude by deflated power iteration."""

from __future__ import annotations

import numpy as np
import torch

from curvtool.errors import STOPPING, Interrupted, cause_of
from curvtool.estimators.cost import Meter
from curvtool.estimators.eigenpairs import ROUNDING, ROUNDING_STEPS, Eigenvalue, EigenvaluesResult, Tolerance
from curvtool.estimators.observer import Observer
from curvtool.linalg.power import PowerState, power_iteration
from curvtool.operators.base import LinearOperator


def by_power(
    operator: LinearOperator, k: int, tolerance: Tolerance, max_passes: int, seed: int, observer: Observer
) -> EigenvaluesResult:
    """See `eigenvalues`, which checks the arguments."""
    meter = Meter(operator)
    space = operator.space
    magnitudes: list[float] = []
    vectors, images = space.empty(k), space.empty(k)
    state: PowerState | None = None
    observer.begin("eigenvalues (power iteration)")

    def close(state: PowerState) -> None:
        vectors[len(magnitudes)], images[len(magnitudes)] = state.vector, state.image
        magnitudes.append(abs(state.value))

    def result() -> EigenvaluesResult:
        """The Ritz pairs of the span of what was found: each vector was made orthogonal to others that were inexact,
        and only in their span do the residuals tell the whole error."""
        basis, products = vectors[: len(magnitudes)], images[: len(magnitudes)]
        form = space.gram(basis, products).to("cpu", torch.float64).numpy()
        values, rotation = np.linalg.eigh((form + form.T) / 2)
        order = np.argsort(-np.abs(values), kind="stable")
        turn = torch.from_numpy(np.ascontiguousarray(rotation[:, order].T)).to(basis)
        ritz, rest = turn @ basis, turn @ products
        rounding = space.eps * float(np.abs(values).max())
        pairs = []
        for place, i in enumerate(order):
            residual = max(float(space.norm(rest[place] - float(values[i]) * ritz[place])), ROUNDING * rounding)
            converged = residual <= max(tolerance.of(float(values[i])), ROUNDING_STEPS * rounding)
            pairs.append(Eigenvalue(float(values[i]), residual, 0.0, converged, rounding=ROUNDING * rounding))
        whole = len(magnitudes) == k and all(pair.converged for pair in pairs)
        return EigenvaluesResult(tuple(pairs), ritz, "lm", "power", whole, None, meter.cost())

    try:
        for index in range(k):
            for state in power_iteration(operator.matvec, space, vectors[:index], space.generator(seed, 3, index)):
                largest = max([abs(state.value), *magnitudes])
                converged = state.residual_norm <= max(tolerance.of(state.value), ROUNDING_STEPS * space.eps * largest)
                observer.advance(
                    meter.products, f"lambda_{index + 1} {state.value:.5g} +- {state.residual_norm:.1e}", None
                )
                if converged or meter.products >= max_passes:
                    close(state)
                    break
            state = None
            if not converged:
                break
    except STOPPING as error:
        stop = cause_of(error)
        if state is not None and len(magnitudes) < k:
            close(state)
        raise Interrupted(result() if magnitudes else None, stop) from stop
    return result()
