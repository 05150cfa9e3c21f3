"""A product on a few samples, by which a later run sees whether it is the same function that was measured before.

Source files do not tell all that a model's code depends on: files that it reads, variables, what it imports while it
runs. What it computes does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from curvtool.operators.curvature import CurvatureOperator
from curvtool.operators.noise import FAILURES, PLAINLY
from curvtool.operators.preflight import Preflight
from curvtool.problem.problem import Problem

NUM_SAMPLES = 8
_NUM_DIRECTIONS = 4
_UNITS = 100.0  # of rounding, by which two runs of the same may differ; what differs by more is measured again


@dataclass(frozen=True)
class Witnessed:
    """What a preflight found, and what the products were then.

    Attributes:
        checks: what it found.
        witness: see `witness_of`.
    """

    checks: Preflight
    witness: tuple[float, ...]


def witness_of(kind: type[CurvatureOperator], problem: Problem) -> tuple[float, ...] | None:
    """Loss, ||A v|| and <u_i, A v> of samples drawn over all the data, v and u_i fixed random unit vectors.

    None where they cannot be had, or are not finite.

    Args:
        kind: the matrix A.
        problem: whose samples are taken.
    """
    try:
        operator = kind(problem.sampled(NUM_SAMPLES), **PLAINLY)
        space = operator.space
        first, *others = (space.normal(0, 7, 100 + number) for number in range(1 + _NUM_DIRECTIONS))
        image = operator.matvec(first / space.norm(first))
        inner = [float(space.inner(other, image) / space.norm(other)) for other in others]
        found = (operator.loss_and_gradient()[0], float(space.norm(image)), *inner)
    except FAILURES:
        return None
    return found if all(map(math.isfinite, found)) else None


def agree(before: tuple[float, ...], now: tuple[float, ...] | None, eps: float) -> bool:
    """Whether two witnesses are of the same function, up to rounding.

    The noise floor does not count: the same samples are run in the same way, and a large one would let all pass.
    """
    if now is None or len(before) != len(now):
        return False
    tolerance = _UNITS * eps
    (loss, norm, *inner), (loss_now, norm_now, *inner_now) = before, now
    near = abs(loss - loss_now) <= tolerance * abs(loss) and abs(norm - norm_now) <= tolerance * norm
    # a random direction holds 1 / sqrt(P) of the product's length, and of the error's likewise
    size = math.hypot(*inner) / math.sqrt(len(inner))
    return near and all(abs(one - other) <= 4 * tolerance * size for one, other in zip(inner, inner_now, strict=True))
