"""The full check of eigenpairs: their true residuals, and a fresh start beside them for what was missed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from curvtool.errors import CurvtoolError, Interrupted
from curvtool.estimators.by_lanczos import Request, by_lanczos
from curvtool.estimators.cost import Cost, Meter
from curvtool.estimators.eigenpairs import ROUNDING, ROUNDING_STEPS, Eigenvalue, EigenvaluesResult, data_stderr
from curvtool.estimators.observer import Observer
from curvtool.linalg.ritz import RitzPairs
from curvtool.operators.base import LinearOperator

_SEARCH_RTOL = 1e-2  # of the leading value of the complement, as long as it does not come near the last wanted one


def full_check(
    operator: LinearOperator, result: EigenvaluesResult, request: Request, observer: Observer
) -> EigenvaluesResult:
    """The result with true residuals, and with the pairs that a deflated fresh start finds beyond it.

    A single Krylov space sees a multiple eigenvalue once, and may not have met an eigenvector that its start hardly
    holds. With the pairs locked, Lanczos from a new random vector in their complement shows the leading eigenvalue of
    the rest: where it lies beyond the last wanted one it is a missed pair, and the search goes on beside it too.

    Raises:
        Interrupted: stopped on the way; its `partial` is the result so far.
    """
    meter = Meter(operator)
    solver = result.cost

    def closed(result: EigenvaluesResult, num_missed: int) -> EigenvaluesResult:
        return replace(result, cost=_sum(solver, meter.cost(meter.products)), num_missed=num_missed)

    missed = 0
    try:
        observer.begin("true residuals", len(result.eigenvalues))
        result = _with_true_residuals(operator, result, request, observer)
        locked = result.vectors if request.locked is None else torch.cat([request.locked, result.vectors])
        while len(locked) < operator.space.dim:
            fresh = replace(request, locked=locked, seed=request.seed + 1000 + missed)
            found = _beyond(operator, result, fresh, observer)
            if not found:
                break
            missed += len(found)
            result = _merged(result, found, request)
            locked = torch.cat([locked, torch.stack([vector for _, vector in found])])
    except Interrupted as stop:
        raise Interrupted(closed(result, missed), stop.cause) from stop
    except (CurvtoolError, KeyboardInterrupt) as stop:
        raise Interrupted(closed(result, missed), stop) from stop
    return closed(result, missed)


def _with_true_residuals(
    operator: LinearOperator, result: EigenvaluesResult, request: Request, observer: Observer
) -> EigenvaluesResult:
    """||A y - theta y|| by a product each, and the spread over the data with it."""
    checked, forms = [], []
    epsilon = operator.space.eps * max(result.scale, *(abs(pair.value) for pair in result.eigenvalues))
    rounding, floor = ROUNDING * epsilon, ROUNDING_STEPS * epsilon
    for number, (pair, vector) in enumerate(zip(result.eigenvalues, result.vectors, strict=True)):
        product, shares = operator.matvec_in_parts(vector, vector[None])
        if request.locked is not None:
            product = product - operator.space.coefficients(request.locked, product) @ request.locked
        residual = float(operator.space.norm(product - pair.value * vector))
        true = replace(pair, residual_norm=max(residual, rounding)).at_rounding(request.tolerance, floor)
        still = pair.converged and true.meets(request.tolerance, floor)
        checked.append(replace(true, converged=still))
        forms.append(shares[:, 0].to(device="cpu", dtype=torch.float64).numpy())
        observer.advance(number + 1, f"residual {true.residual_norm:.1e}", len(result.eigenvalues) - number - 1)
    spread = data_stderr(np.stack(forms, axis=1), operator.part_weights)
    if spread is not None:
        checked = [replace(pair, data_stderr=float(s)) for pair, s in zip(checked, spread, strict=True)]
    return replace(result, eigenvalues=tuple(checked), converged=all(pair.converged for pair in checked))


def _beyond(
    operator: LinearOperator, result: EigenvaluesResult, request: Request, observer: Observer
) -> list[tuple[Eigenvalue, torch.Tensor]]:
    """The pairs of the locked vectors' complement that lie beyond the wanted ones: the leading one of each end."""
    rest = operator.space.dim - len(request.locked if request.locked is not None else ())
    which = request.which if request.which != "be" or rest > 1 else "la"
    quick = replace(request, k=1, which=which, rtol=max(_SEARCH_RTOL, request.rtol), vector_rtol=None, start=None)
    found = by_lanczos(operator, quick, observer, check=False)
    if not any(_is_beyond(pair, result, request, slack=pair.error_bound) for pair in found.eigenvalues):
        return []
    exact = replace(quick, rtol=request.rtol, vector_rtol=request.vector_rtol, start=found.vectors)
    found = by_lanczos(operator, exact, observer, check=False)
    pairs = zip(found.eigenvalues, found.vectors, strict=True)
    return [(pair, vector) for pair, vector in pairs if _is_beyond(pair, result, request)]


def _is_beyond(pair: Eigenvalue, result: EigenvaluesResult, request: Request, slack: float = 0.0) -> bool:
    """Whether the pair would stand before the last wanted one (of one of the ends), by more than the tolerance."""
    values, which = np.asarray(result.values), request.which
    if which == "lm":
        return abs(pair.value) + slack > np.abs(values).min() * (1 + request.rtol)
    upper = values[: request.k] if which == "be" else values if which == "la" else None
    lower = values[request.k :] if which == "be" else values if which == "sa" else None
    above = upper is not None and pair.value + slack > upper.min() + request.rtol * abs(upper.min())
    below = lower is not None and pair.value - slack < lower.max() - request.rtol * abs(lower.max())
    return bool(above or below)


def _merged(
    result: EigenvaluesResult, found: list[tuple[Eigenvalue, torch.Tensor]], request: Request
) -> EigenvaluesResult:
    """The wanted pairs among those there were and those found, in the order of `which`."""
    pairs = [*zip(result.eigenvalues, result.vectors, strict=True), *found]
    rounding = max(pair.rounding for pair, _ in pairs)  # the complement of the known vectors does not know their values
    pairs = [(replace(pair, rounding=rounding), vector) for pair, vector in pairs]
    values = np.asarray([pair.value for pair, _ in pairs])
    ascending = np.argsort(values, kind="stable")
    index = ascending[RitzPairs(values[ascending], np.empty((0, 0)), np.empty(0)).wanted(request.k, request.which)]
    chosen = [pairs[i][0] for i in index]
    return replace(
        result,
        eigenvalues=tuple(chosen),
        vectors=torch.stack([pairs[i][1] for i in index]),
        converged=all(pair.converged for pair in chosen),
    )


def _sum(solver: Cost, check: Cost) -> Cost:
    return Cost(
        num_hvps=solver.num_hvps + check.num_hvps,
        solver_hvps=solver.solver_hvps,
        check_hvps=solver.check_hvps + check.num_hvps,
        data_passes=solver.data_passes + check.data_passes,
        seconds=solver.seconds + check.seconds,
    )
