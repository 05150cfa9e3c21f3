"""Extreme eigenvalues by Lanczos: when to stop, and the closing check."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from curvtool.errors import CurvtoolError, Interrupted
from curvtool.estimators.cost import Meter
from curvtool.estimators.eigenpairs import Eigenvalue, EigenvaluesResult
from curvtool.estimators.observer import Observer
from curvtool.linalg.lanczos import Lanczos
from curvtool.linalg.ritz import RitzPairs, Which
from curvtool.operators.base import LinearOperator

PASSES_IN_A_ROW = 3  # one pass alone was wrong in 2 % of 400 random starts, three in a row never


def basis_size(operator: LinearOperator, k: int, which: str, memory_budget: int) -> int:
    """Basis vectors that the budget allows, never fewer than 2k + 2 (at each end), at most 20 + 10 of them a pair."""
    wanted = 2 * k if which == "be" else k
    affordable = memory_budget // max(operator.space.vector_bytes, 1) - wanted - 2
    return max(2 * wanted + 2, min(affordable, 20 + 10 * wanted))


def by_lanczos(
    operator: LinearOperator,
    k: int,
    which: Which,
    rtol: float,
    max_passes: int,
    max_basis: int | None,
    memory_budget: int,
    seed: int,
    observer: Observer,
) -> EigenvaluesResult:
    """See `eigenvalues`, which checks the arguments."""
    meter = Meter(operator)
    space = operator.space
    num_wanted = 2 * k if which == "be" else k
    lanczos = Lanczos(
        operator.matvec,
        space,
        max_basis or basis_size(operator, k, which, memory_budget),
        space.generator(seed, 1),
    )
    keep = keep_for(k, which)
    in_a_row = 0
    pairs: RitzPairs | None = None
    trend = Trend(rtol)
    observer.begin(f"eigenvalues ({which})")

    def result(discrepancy: float | None, check_hvps: float) -> EigenvaluesResult:
        assert pairs is not None
        index = pairs.wanted(k, which)
        extra = discrepancy or 0.0
        checked = RitzPairs(pairs.values, pairs.coefficients, np.hypot(pairs.residuals, extra))
        found = _eigenvalues(checked, index, rtol, space.eps * 32 * lanczos.scale)
        enough = len(index) == num_wanted and (in_a_row >= PASSES_IN_A_ROW or lanczos.exhausted)
        if not enough:
            found = tuple(Eigenvalue(e.value, e.residual_norm, e.error_bound, e.bound_kind, False) for e in found)
        return EigenvaluesResult(
            found,
            lanczos.vectors(pairs, index),
            which,
            "lanczos",
            all(e.converged for e in found),
            discrepancy,
            meter.cost(check_hvps),
        )

    try:
        while True:
            pairs = lanczos.step(keep)
            index = pairs.wanted(k, which)
            found = _eigenvalues(pairs, index, rtol, space.eps * 32 * lanczos.scale)
            # without Ritz values beyond the wanted ones there is no estimate of a gap
            seen = len(index) == num_wanted and lanczos.size > num_wanted
            in_a_row = in_a_row + 1 if seen and all(e.converged for e in found) else 0
            worst = max((e.error_bound / max(abs(e.value), 1e-300) for e in found), default=math.inf)
            observer.advance(
                lanczos.num_steps,
                f"lambda {found[0].value:.5g}, worst relative error {worst:.1e}",
                trend.remaining(lanczos.num_steps, worst) if seen else None,
            )
            if in_a_row >= PASSES_IN_A_ROW or lanczos.exhausted or lanczos.num_steps >= max_passes:
                break
        discrepancy = _closing_check(operator, lanczos, pairs, pairs.wanted(k, which), seed)
    except (CurvtoolError, KeyboardInterrupt) as stop:
        raise Interrupted(result(None, 0.0) if pairs is not None else None, stop) from stop
    return result(discrepancy, 1.0)


def _eigenvalues(pairs: RitzPairs, index: np.ndarray, rtol: float, floor: float) -> tuple[Eigenvalue, ...]:
    """The wanted pairs with their errors; `floor` is the rounding noise below which an eigenvalue counts as found."""
    bounds, quadratic = pairs.error_bounds(index)
    return tuple(
        Eigenvalue(
            value=float(pairs.values[i]),
            residual_norm=float(pairs.residuals[i]),
            error_bound=float(bound),
            bound_kind="quadratic" if is_quadratic else "linear",
            converged=bool(bound <= max(rtol * abs(pairs.values[i]), floor)),
        )
        for i, bound, is_quadratic in zip(index, bounds, quadratic, strict=True)
    )


def keep_for(k: int, which: str) -> Callable[[RitzPairs, int], np.ndarray]:
    """The pairs that survive a restart: the wanted ones and their neighbours, from the wanted ends."""

    def keep(pairs: RitzPairs, number: int) -> np.ndarray:
        wanted = 2 * k if which == "be" else k
        number = min(max(number, wanted + 1), len(pairs.values) - 1)
        if which == "be":
            return pairs.wanted(max(number // 2, k), "be")  # never cut: the wanted ones stand at both ends
        return pairs.wanted(number, which)

    return keep


def _closing_check(operator: LinearOperator, lanczos: Lanczos, pairs: RitzPairs, index: np.ndarray, seed: int) -> float:
    """One product with u = sum_i c_i y_i, c_i = +-1; the norm of A u less what the solver foretells of it.

    With sum_i c_i (theta_i y_i + beta s_{j,i} q) foretold, the rest is what rounding, lost orthogonality or an operator
    that is not symmetric brought in; over the signs its mean square is the sum of the pairs' own squared deviations.
    """
    signs = np.where(np.random.default_rng([seed, 2]).random(len(index)) < 0.5, -1.0, 1.0)
    vectors = lanczos.vectors(pairs, index)
    combination = torch.from_numpy(signs).to(vectors) @ vectors
    foretold = torch.from_numpy(signs * pairs.values[index]).to(vectors) @ vectors
    if not lanczos.exhausted and lanczos.last_norm > 0:
        along = lanczos.last_norm * float(signs @ pairs.coefficients[-1, index])
        foretold = foretold + along * lanczos.residual_direction()
    return float(operator.space.norm(operator.matvec(combination) - foretold))


class Trend:
    """How many more products until the error meets the tolerance, by its mean fall over the last ten."""

    def __init__(self, rtol: float) -> None:
        self.rtol = rtol
        self.history: list[tuple[int, float]] = []

    def remaining(self, step: int, error: float) -> float | None:
        """None where the error does not fall."""
        self.history = [*self.history[-9:], (step, math.log(max(error, 1e-300)))]
        (first, high), (last, low) = self.history[0], self.history[-1]
        if low <= math.log(self.rtol):
            return float(PASSES_IN_A_ROW - 1)
        if last == first or low >= high:
            return None
        return (low - math.log(self.rtol)) * (last - first) / (high - low) + PASSES_IN_A_ROW - 1
