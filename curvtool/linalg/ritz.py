"""Ritz values and the errors that follow from their residuals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np

from curvtool.vocabulary import Which

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

    def gaps(self, index: np.ndarray) -> np.ndarray:
        """Estimates of the distance from these Ritz values to the rest of the spectrum; 0 where nothing is known.

        The distance to the nearest other Ritz value less that one's residual norm.
        """
        gaps = np.zeros(len(index))
        for place, i in enumerate(index):
            others = np.arange(len(self.values)) != i
            if others.any():
                distances = np.abs(self.values[others] - self.values[i]) - self.residuals[others]
                gaps[place] = max(float(distances.min()), 0.0)
        return gaps
