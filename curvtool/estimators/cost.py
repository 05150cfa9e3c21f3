"""What an estimate cost."""

from __future__ import annotations

import time
from dataclasses import dataclass

from curvtool.operators.base import LinearOperator


@dataclass(frozen=True)
class Cost:
    """Attributes:
    num_hvps: products with the whole operator, all of them.
    solver_hvps: those of the solver.
    check_hvps: those of the closing check.
    data_passes: passes over all samples, fractions allowed.
    seconds: wall time.
    """

    num_hvps: float
    solver_hvps: float
    check_hvps: float
    data_passes: float
    seconds: float


class Meter:
    """Counts an operator's products and the time from its making on."""

    def __init__(self, operator: LinearOperator) -> None:
        self._operator = operator
        self._products, self._passes = operator.num_products, operator.data_passes
        self._begin = time.perf_counter() + operator.seconds_before

    @property
    def products(self) -> float:
        """Products since the start."""
        return self._operator.num_products - self._products

    def cost(self, check_hvps: float = 0.0) -> Cost:
        """The cost so far, of which `check_hvps` products were the closing check's."""
        products = round(self.products, 9)
        return Cost(
            num_hvps=products,
            solver_hvps=products - check_hvps,
            check_hvps=check_hvps,
            data_passes=round(self._operator.data_passes - self._passes, 9),
            seconds=time.perf_counter() - self._begin + self._operator.seconds_before,
        )
