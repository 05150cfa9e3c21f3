"""What goes on from product to product, is watched, and survives an interruption."""

from __future__ import annotations

from typing import Any

import torch

from curvtool.estimators.observer import Observer
from curvtool.operators.base import LinearOperator, Steps


class KeptSteps(Steps):
    """Steps whose state the run's ledger keeps, and of which an observer hears.

    Args:
        name: what they come to, by which the state is found again.
        operator: whose products they take.
        products: how many these are in all.
        told: what is shown beside their number.
        observer: hears of them, and knows the ledger.
    """

    def __init__(self, name: str, operator: LinearOperator, products: int, told: str, observer: Observer) -> None:
        super().__init__()
        self.operator, self.products, self.told, self.observer = operator, products, told, observer
        observer.ledger.resume(name, operator, self)

    def state(self) -> dict[str, Any]:
        """How many are through, and what they gave."""
        so_far = self.operator.space.zeros(0) if self.so_far is None else self.so_far
        return {"steps": [self.done, self.of], "so_far": so_far}

    def restore(self, state: dict[str, Any]) -> None:
        """Puts it back."""
        self.done, self.of = state["steps"]
        self.so_far = state["so_far"] if self.of else None

    def advance(self, done: int, so_far: torch.Tensor) -> None:
        """Passed on, in products."""
        super().advance(done, so_far)
        products = round(self.products * done / self.of)
        self.observer.advance(products, self.told, self.products - products)
