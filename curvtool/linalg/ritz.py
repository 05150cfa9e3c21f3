"""Ritz values and the errors that follow from their residuals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

Which = Literal["la", "sa", "lm", "be"]
WHICH: tuple[str, ...] = get_args(Which)


@dataclass(frozen=True)
class RitzPairs:
    """All Ritz pairs of a Krylov space, in ascending order of their values.

    Attributes:
        values: Ritz values theta, shape (j,).
        coefficients: eigenvectors of the projected matrix as columns, shape (j, j).
        residuals: residual norms ||A y - theta y||, shape (j,).
    """

    values: np.ndarray
    coefficients: np.ndarray
    residuals: np.ndarray

    def wanted(self, k: int, which: str) -> np.ndarray:
        """Indices of the wanted pairs in the order of the report.

        `la`: the k largest, descending; `sa`: the k smallest, ascending; `lm`: the k largest in magnitude, by falling
        magnitude; `be`: k at each end, descending.
        """
        size = len(self.values)
        if which == "la":
            return np.arange(size)[::-1][:k]
        if which == "sa":
            return np.arange(size)[:k]
        if which == "lm":
            return np.argsort(-np.abs(self.values), kind="stable")[:k]
        ends = np.union1d(np.arange(size)[:k], np.arange(size)[::-1][:k])
        return ends[::-1]

    def error_bounds(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Bounds on the error of the Ritz values of these indices, and whether each is the quadratic one.

        Within r of theta there is an eigenvalue, whatever else (linear). With gap the distance from theta to the rest
        of the spectrum it lies within r^2/gap (Kato 1949, Temple 1928); the gap is estimated by the nearest other Ritz
        value less that one's residual, so the quadratic bound supposes that no eigenvalue unseen so far hides in it.
        """
        bounds = np.empty(len(index))
        quadratic = np.zeros(len(index), dtype=bool)
        for place, i in enumerate(index):
            r = self.residuals[i]
            others = np.arange(len(self.values)) != i
            if others.any():
                gap = float(np.min(np.abs(self.values[others] - self.values[i]) - self.residuals[others]))
            else:
                gap = 0.0
            quadratic[place] = gap > r
            bounds[place] = r * r / gap if gap > r else r
        return bounds, quadratic
