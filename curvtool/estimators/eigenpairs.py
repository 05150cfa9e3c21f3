"""What an eigenvalue solver returns: values and vectors, each with its error."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from curvtool.estimators.cost import Cost
from curvtool.linalg.ritz import Which

Method = Literal["lanczos", "power"]
BoundKind = Literal["linear", "quadratic"]
METHODS: tuple[str, ...] = get_args(Method)


@dataclass(frozen=True)
class Eigenvalue:
    """One eigenvalue.

    Attributes:
        value: the Ritz value theta.
        residual_norm: ||A y - theta y|| of its unit vector: the solver's estimate and what the closing check found
            beyond it, combined.
        error_bound: estimate of |theta - lambda| for the nearest eigenvalue lambda.
        bound_kind: `linear` (the residual norm: supposes nothing about the rest of the spectrum) or `quadratic`
            (residual^2 / gap: supposes that no eigenvalue unseen so far lies in the gap).
        converged: error_bound <= rtol |theta| when the solver stopped.
    """

    value: float
    residual_norm: float
    error_bound: float
    bound_kind: BoundKind
    converged: bool

    @property
    def relative_residual(self) -> float:
        """residual_norm / |value|; infinite at 0."""
        return self.residual_norm / abs(self.value) if self.value else math.inf


@dataclass(frozen=True)
class EigenvaluesResult:
    """Attributes:
    eigenvalues: in the order of `which`: descending for `la`, `be`, by falling magnitude for `lm`, ascending for `sa`.
    vectors: their unit vectors, shape (k, P), on the operator's device.
    which: `la`, `sa`, `lm` or `be`.
    method: `lanczos` or `power`.
    converged: whether every eigenvalue is.
    check_discrepancy: norm of what the closing product found beyond the residuals that the solver expected; None where
        the check was not reached.
    cost: products and time.
    """

    eigenvalues: tuple[Eigenvalue, ...]
    vectors: torch.Tensor
    which: Which
    method: Method
    converged: bool
    check_discrepancy: float | None
    cost: Cost

    @property
    def values(self) -> list[float]:
        """The values alone."""
        return [pair.value for pair in self.eigenvalues]
