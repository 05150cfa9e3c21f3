"""The trace of a symmetric operator by random probes, with a confidence interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from curvtool.errors import CurvtoolError, Interrupted, UsageError, not_finite
from curvtool.estimators.cost import Cost, Meter
from curvtool.estimators.observer import SILENT, Observer
from curvtool.linalg.intervals import Interval, look_error, stratified_interval, student_t_quantile
from curvtool.operators.base import LinearOperator

_DEGREES_WANTED = 32  # of freedom at the first look, so that its interval is not wide for want of them
_PASSES_WITHOUT_SPREAD = 16  # alike before no error is claimed: one coin falls alike so often once in 2^15


@dataclass(frozen=True)
class TraceResult:
    """Attributes:
    value: the estimate of tr A.
    stderr: its standard error over the probes.
    ci95: the 95 % interval, valid though the run stopped itself; None where fewer than two passes were made.
    num_passes: probes of each term.
    num_terms: terms with a probe of their own in every pass.
    converged: whether half of the interval's width is at most rtol |value|.
    cost: products (a pass counts as one) and time.
    """

    value: float
    stderr: float | None
    ci95: tuple[float, float] | None
    num_passes: int
    num_terms: int
    converged: bool
    cost: Cost


def trace(
    operator: LinearOperator,
    *,
    rtol: float = 0.05,
    max_passes: int = 1000,
    seed: int = 0,
    observer: Observer = SILENT,
) -> TraceResult:
    """tr A = sum_t E[z_t^T A_t z_t], with an independent Rademacher probe z_t for every term in every pass.

    Hutchinson 1990 with a probe for each group of samples: as unbiased as one probe shared by all data, at the same
    price a pass, with about as many times less variance as there are groups. The interval is Student's t over the
    groups' own variances. After a pilot the number of passes is planned from them; the error probability of 5 % is
    spread over the looks, so that stopping when it is narrow enough leaves it valid.

    Args:
        operator: the matrix, a sum of terms.
        rtol: half-width of the 95 % interval over the estimate, to reach.
        max_passes: passes after which it stops and says that the interval is wider.
        seed: of the probes; a term's probe in a pass depends on nothing else.
        observer: hears progress.

    Raises:
        UsageError: CT001, rtol or max_passes makes no sense.
        Interrupted: stopped on the way; its `partial` is the result so far.
    """
    if not 0 < rtol < 1:
        raise UsageError(
            "CT001", "no such tolerance", expected="0 < rtol < 1", received=str(rtol), remedy="--rtol 0.05"
        )
    if max_passes < 2:
        raise UsageError(
            "CT001",
            "an interval needs two passes",
            expected="--max-passes 2 or more",
            received=str(max_passes),
        )
    meter = Meter(operator)
    passes: list[np.ndarray] = []
    interval: Interval | None = None
    next_look = min(max(3, 1 + math.ceil(_DEGREES_WANTED / operator.num_terms)), max_passes)
    look = 0
    observer.begin("trace", next_look)

    def result() -> TraceResult:
        return _result(operator, passes, interval, rtol, meter)

    try:
        while True:
            while len(passes) < next_look:
                passes.append(_one_pass(operator, len(passes), seed))
                observer.advance(len(passes), _running(passes), next_look - len(passes))
            interval = stratified_interval(np.stack(passes), look)
            target = rtol * abs(interval.value)
            if interval.stderr == 0 and len(passes) < min(_PASSES_WITHOUT_SPREAD, max_passes):
                next_look = min(_PASSES_WITHOUT_SPREAD, max_passes)  # nothing was decided: no error is spent
                continue
            if interval.half_width <= target or len(passes) >= max_passes:
                return result()
            look += 1
            next_look = min(_plan(interval, len(passes), look, target), max_passes)
            observer.advance(len(passes), _running(passes), next_look - len(passes))
    except (CurvtoolError, KeyboardInterrupt) as stop:
        if len(passes) >= 2:  # one more look than planned, at its own price
            interval = stratified_interval(np.stack(passes), look)
        raise Interrupted(result() if passes else None, stop) from stop


def _one_pass(operator: LinearOperator, number: int, seed: int) -> np.ndarray:
    """z_t^T A_t z_t of every term; one transfer to the host."""
    forms = []
    for term in range(operator.num_terms):
        probe = operator.space.rademacher(operator.space.generator(seed, 4, number, term))
        forms.append(operator.term_quadratic_form(term, probe))
    numbers = torch.stack(forms).to(device="cpu", dtype=torch.float64).numpy()
    if not np.isfinite(numbers).all():
        raise not_finite("a quadratic form of the Hessian")
    return numbers


def _plan(interval: Interval, num: int, look: int, target: float) -> int:
    """Passes at which the interval of the next look should be as narrow as the target.

    A standard deviation of the estimated variance, sqrt(2 / degrees) of it, is to spare: further looks cost width.
    """
    quantile = student_t_quantile(1.0 - look_error(look) / 2, interval.degrees)
    spare = 1 + math.sqrt(2 / interval.degrees)
    wanted = num * (quantile * interval.stderr / target) ** 2 * spare if target > 0 else math.inf
    return max(num + 1, math.ceil(min(wanted, num * 1000)))


def _running(passes: list[np.ndarray]) -> str:
    totals = [float(one.sum()) for one in passes]
    spread = (
        f" +- {np.stack(passes).var(axis=0, ddof=1).sum() ** 0.5 / len(passes) ** 0.5:.2g}" if len(passes) > 1 else ""
    )
    return f"trace {sum(totals) / len(totals):.5g}{spread}"


def _result(
    operator: LinearOperator, passes: list[np.ndarray], interval: Interval | None, rtol: float, meter: Meter
) -> TraceResult:
    value = interval.value if interval else float(np.stack(passes).mean(axis=0).sum())
    return TraceResult(
        value=value,
        stderr=interval.stderr if interval else None,
        ci95=interval.bounds if interval else None,
        num_passes=len(passes),
        num_terms=operator.num_terms,
        converged=interval is not None and interval.half_width <= rtol * abs(value),
        cost=meter.cost(),
    )
