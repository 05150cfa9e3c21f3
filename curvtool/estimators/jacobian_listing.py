"""Which examples have the largest Jacobian norms, when the norms are estimates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np
import torch

from curvtool.cluster.solo import Solo
from curvtool.errors import CurvtoolError, OutOfMemory
from curvtool.estimators.accuracy.norms import NormEstimates, floored
from curvtool.estimators.jacobian_batches import Batch, exact_batch
from curvtool.operators.jacobian import InputJacobian
from curvtool.operators.random_rounding import RandomRounding

_AT_A_TIME = 8  # examples recomputed between two looks at the list
_DRAWS = 3  # of rounding, where float64 is compared with itself: one may be small by luck
_LOOKED_AT = 8  # examples over the data whose norms are compared with float64, beside the listed ones


def largest(key: NormEstimates, top: int) -> tuple[int, ...]:
    """The rows with the largest norms, descending; recomputed ones alone where there are any."""
    rows = np.flatnonzero(~np.isnan(key.exact))
    rows = np.arange(len(key.exact)) if not len(rows) else rows
    order = rows[np.argsort(-key.values[rows], kind="stable")][:top]
    return tuple(int(i) for i in order)


def recompute_largest(
    jacobian: InputJacobian,
    estimates: dict[str, NormEstimates],
    norm: str,
    top: int,
    budget: int,
    noise: float,
    cluster: Solo,
    heard: Callable[[int, int], None],
) -> tuple[int, float, float]:
    """Computes the norms of candidates from all rows, in place, until the list of the largest is certain.

    Candidates are taken by the upper ends of their intervals, which hold for all examples together. The list is certain
    once no other example's upper end lies above the smallest listed norm.

    Args:
        jacobian: the operator.
        estimates: by norm; the spectral one decides where it is there.
        norm: `both`, `frobenius` or `spectral`.
        top: how many are listed.
        budget: examples that may be recomputed.
        noise: rounding of a norm, relative.
        cluster: the ranks, which share the candidates.
        heard: is told how many were recomputed, and how many candidates are left.

    Returns:
        Examples recomputed, and the vector-Jacobian and Jacobian-vector products of the whole data that this took.
    """
    key = estimates.get("spectral", estimates.get("frobenius"))
    assert key is not None
    wanted, count, vjps, jvps = min(top, len(key.exact)), 0, 0.0, 0.0
    while count < budget:
        known = ~np.isnan(key.exact)
        low, high = key.interval(noise, together=True)
        listed = list(largest(key, top)) if known.sum() >= wanted else []
        least = low[listed].min() if listed else -np.inf
        candidates = np.flatnonzero(~known & (high > least))
        heard(count, len(candidates))
        if not len(candidates):
            break
        size = max(_AT_A_TIME, cluster.size) if listed else wanted
        turn = candidates[np.argsort(-high[candidates], kind="stable")][: min(size, budget - count)]
        own = turn[cluster.rank :: cluster.size].tolist()
        batch = exact_batch(jacobian.of_rows(own), range(len(own)), norm) if own else None
        share = len(turn) / jacobian.problem.num_samples
        for rank, found in enumerate(exchanged(batch, cluster)):
            rows = turn[rank :: cluster.size]
            for name, estimate in estimates.items():
                if len(rows):
                    estimate.exact[rows] = getattr(found, name)
            if rank == 0:
                vjps, jvps = vjps + found.num_vjps * share, jvps + found.num_jvps * share
        count += len(turn)
    return count, vjps, jvps


def settle_kinks(jacobian: InputJacobian, estimates: dict[str, NormEstimates], norm: str) -> tuple[float, float]:
    """Exact norms in float64 of the examples that rounding moves across a kink: few of all, and off
    by far more than rounding.

    Returns:
        Vector-Jacobian and Jacobian-vector products over the data that it took.
    """
    try:
        rows = jacobian.rows_across_kinks()
        if not rows:
            return 0.0, 0.0
        problem = jacobian.problem.restricted(rows, torch.float64)
        wide = InputJacobian(problem, batch_size=1, memory_budget=jacobian.memory_budget, form="torch")
        true = exact_batch(wide, range(len(rows)), norm)
    except (
        CurvtoolError,
        TypeError,
        RuntimeError,
        NotImplementedError,
    ):  # no float64, or a model that cannot be watched
        return 0.0, 0.0
    for name, estimate in estimates.items():
        estimate.exact[rows] = getattr(true, name)
        estimate.bounds[:, rows] = estimate.reach[:, rows] = estimate.exact[rows]
    share = len(rows) / jacobian.problem.num_samples
    return true.num_vjps * share, true.num_jvps * share


def noise_over_data(
    jacobian: InputJacobian, estimates: dict[str, NormEstimates], norm: str, listed: Sequence[int]
) -> float | None:
    """How far exact norms are from those in float64, relative: of the listed examples, and where all are exact of some
    over the data and of the smallest too.

    A kink that rounding crosses shows in a few examples alone, and those listed are the ones that are quoted. Float64
    is under random rounding, so that its own shows. None where nothing is exact, or the model does not run in it.
    """
    key = next(iter(estimates.values()))
    exact, rows = key.exact, [i for i in listed if not np.isnan(key.exact[i])]
    if not np.isnan(exact).any():
        places = np.linspace(0, len(exact) - 1, min(_LOOKED_AT, len(exact))).astype(int)
        rows += [*places.tolist(), *np.argsort(exact)[:2].tolist()]
    rows = list(dict.fromkeys(rows))
    if not rows:
        return None
    try:
        problem = jacobian.problem.restricted(rows, torch.float64)
        wide = InputJacobian(problem, batch_size=1, memory_budget=jacobian.memory_budget, form="torch")
        draws = []
        for seed in range(_DRAWS if jacobian.problem.dtype == torch.float64 else 1):
            with RandomRounding(seed):
                draws.append(exact_batch(wide, range(len(rows)), norm))
    except (OutOfMemory, TypeError, RuntimeError):
        return None
    noise = 0.0
    for name, estimate in estimates.items():
        for true in draws:
            scale = np.maximum(getattr(true, name), floored(estimate.values)[rows])
            difference = np.abs(estimate.exact[rows] - getattr(true, name))
            noise = max(noise, float((difference / np.maximum(scale, 1e-300)).max()))
    return noise


def exchanged(own: Batch | None, cluster: Solo) -> list[Batch]:
    """Every rank's batch; empty ones of those that had none."""
    if cluster.size == 1:
        return [own or Batch()]
    told = None if own is None else {n: v.tolist() if isinstance(v, np.ndarray) else v for n, v in asdict(own).items()}
    return [_told(each) for each in cluster.gather_objects(told)]


def _told(facts: dict[str, object] | None) -> Batch:
    arrays = {n: np.array(v) if isinstance(v, list) else v for n, v in (facts or {}).items()}
    return Batch(**arrays)  # type: ignore[arg-type]
