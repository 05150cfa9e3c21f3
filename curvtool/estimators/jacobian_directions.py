"""Leading singular vectors of the input-output Jacobian of chosen examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from curvtool.device import sums_in
from curvtool.errors import UsageError
from curvtool.estimators.eigenvalues import eigenvalues
from curvtool.estimators.jacobian_batches import GramProducts
from curvtool.estimators.observer import SILENT, Observer
from curvtool.linalg.space import VectorSpace
from curvtool.operators.base import LinearOperator
from curvtool.operators.jacobian import InputJacobian
from curvtool.operators.products import LinearizedFunction

MAX_DENSE = 1024  # outputs or inputs up to which all of an example's Jacobian is computed
_VECTOR_RTOL = 1e-3


@dataclass(frozen=True)
class JacobianDirections:
    """sigma u = J v for the largest singular value of each example.

    Attributes:
        index: the examples, shape (k,).
        spectral: sigma, shape (k,), float64.
        inputs: v, the input direction that the outputs are most sensitive to, unit vectors, shape (k, d).
        outputs: u, the output direction that it moves, shape (k, C).
        error: estimated sine of the angle of v; 0 where the whole Jacobian was decomposed, shape (k,).
    """

    index: tuple[int, ...]
    spectral: torch.Tensor
    inputs: torch.Tensor
    outputs: torch.Tensor
    error: torch.Tensor


def jacobian_directions(
    jacobian: InputJacobian, index: Sequence[int], *, seed: int = 0, observer: Observer = SILENT
) -> JacobianDirections:
    """The leading singular triplet of each example, v with its largest entry positive.

    From the whole Jacobian where outputs or inputs are at most 1024, else by Lanczos on J J^T.

    Args:
        jacobian: the operator.
        index: examples, rows of the data.
        seed: of the Lanczos starts.
        observer: hears progress.

    Raises:
        UsageError: CT001, no such example.
    """
    for row in index:
        if not 0 <= row < jacobian.problem.num_samples:
            raise UsageError(
                "CT001", "no such example", expected=f"0 to {jacobian.problem.num_samples - 1}", received=str(row)
            )
    observer.begin("leading singular vectors", float(len(index)))
    dense = min(jacobian.output_dim, jacobian.input_dim) <= MAX_DENSE
    triplets = []
    for number, row in enumerate(index):
        rows = range(row, row + 1)
        linear = jacobian.linearize(rows)
        triplet = _dense(jacobian, linear) if dense else _iterated(jacobian, linear, seed)
        triplets.append(triplet)
        observer.advance(number + 1, f"sigma {float(triplet[0]):.4g}", len(index) - number - 1)
    sigma, inputs, outputs, error = (torch.stack([t[i] for t in triplets]) for i in range(4))
    place = inputs.abs().argmax(dim=1, keepdim=True)
    sign = inputs.gather(1, place).sign()
    return JacobianDirections(tuple(index), sigma, inputs * sign, outputs * sign, error)


Triplet = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def _dense(jacobian: InputJacobian, linear: LinearizedFunction) -> Triplet:
    matrix = jacobian.dense_of(linear, 1)[0]
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    return values[0].cpu(), right[0].to(matrix.dtype), left[:, 0].to(matrix.dtype), torch.zeros((), dtype=torch.float64)


def _iterated(jacobian: InputJacobian, linear: LinearizedFunction, seed: int) -> Triplet:
    operator = _Gram(jacobian, linear)
    found = eigenvalues(operator, 1, rtol=1e-6, vector_rtol=_VECTOR_RTOL, seed=seed)
    left = found.vectors[0]
    with jacobian.problem.context(1):
        pulled = linear.vjp(left[None])[0]
    norm = torch.linalg.vector_norm(pulled, dtype=sums_in(pulled.device))
    error = found.eigenvalues[0].vector_error
    told = torch.tensor(1.0 if error is None else error, dtype=torch.float64)
    return norm.double().cpu(), (pulled / norm.clamp_min(1e-300)).to(pulled.dtype), left, told


class _Gram(LinearOperator):
    """J J^T of one example, (C, C), in units of `GramProducts`."""

    name = "jacobian-gram"

    def __init__(self, jacobian: InputJacobian, linear: LinearizedFunction) -> None:
        super().__init__(VectorSpace(jacobian.output_dim, linear.output.dtype, linear.output.device))
        self.jacobian, self.products = jacobian, GramProducts(linear)

    def matvec(self, vector: torch.Tensor) -> torch.Tensor:
        """J J^T u, up to the unit's square."""
        self.num_products += 1
        with self.jacobian.problem.context(1):
            return self.products(vector[None])[0]
