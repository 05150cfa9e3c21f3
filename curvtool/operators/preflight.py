"""Is the second derivative right here? A few products on a small batch, before every run.

Some operations drop curvature without an error (a custom autograd function that is differentiable once), and float32
rounds activations across the kinks of a ReLU. So, on samples drawn over all the data: is the product symmetric, does
it agree with a central difference of gradients in float64, and how far is the working dtype's product from float64's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from curvtool.errors import CurvtoolError, DerivativeError, LoadError, OutOfMemory, not_finite
from curvtool.operators.curvature import CurvatureOperator
from curvtool.operators.data_sum import split
from curvtool.operators.hessian import Hessian
from curvtool.operators.jacobian import InputJacobian
from curvtool.operators.noise import (
    PLAINLY,
    beyond_kinks,
    distance,
    gradient_error,
    num_drawn,
    num_small,
    or_asymmetry,
    sensitivity,
    symmetry_of,
)
from curvtool.operators.product_ways import WAYS
from curvtool.operators.random_rounding import RandomRounding
from curvtool.problem.cuts import spread
from curvtool.problem.locate import located

if TYPE_CHECKING:
    from curvtool.problem.problem import Problem

NUM_OF_DIFFERENCES = 32  # where the products are differences: all data are looked at by `difference_error`
NUM_DIFFERENCED = 8  # for the differences of gradients, of which there are up to ten; more where graphs are small
NUM_EXAMPLES = 8  # whose Jacobians are compared
MAX_OUTPUTS = 128
_STEPS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7)  # of a unit direction: on ReLU networks larger ones cross kinks
_AGREEMENT = 1e-3
_COARSE_STEPS, _COARSE_AGREEMENT = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3), 3e-2  # in the working precision


@dataclass(frozen=True)
class Preflight:
    """Attributes:
    num_samples: samples of the small batch.
    symmetry: |<u, Hv> - <v, Hu>| / max(||Hu||, ||Hv||) for random unit vectors u, v, in the working dtype.
    finite_difference: ||Hv - difference of gradients|| / ||Hv|| in float64; None where no two step sizes agreed.
    noise_floor: relative distance of the working dtype's product from the float64 one; 0 in float64 itself; what their
        asymmetry says where that is far more (`or_asymmetry`).
    unavailable: what could not be measured, by name, with the reason.
    gradient_error: what rounding may do to the gradient's norm, absolute; None in float64, and where it is not known.
    without_float64: why float64 could not be had; the noise floor is then the effect of rounded parameters.
    """

    num_samples: int
    symmetry: float | None
    finite_difference: float | None
    noise_floor: float | None
    unavailable: dict[str, str]
    without_float64: str | None = None
    gradient_error: float | None = None


def preflight_curvature(
    problem: Problem,
    operator: type[CurvatureOperator] = Hessian,
    seed: int = 0,
    memory_budget: int | None = None,
    mode: str = "auto",
) -> Preflight:
    """Checks the products of a matrix of the problem on samples drawn over all its data.

    Differences of gradients are compared with the Hessian's products, whatever the matrix: they show an operation
    whose derivative is wrong.

    Args:
        problem: whose samples are taken, as many as cost less than a product of all (`num_drawn`).
        operator: the matrix.
        seed: of the vectors.
        memory_budget: bytes for the graphs of a batch; half of the free memory if None.
        mode: `finite-difference` where products are differences: then what two steps differ by is the noise floor.

    Raises:
        DerivativeError: CT050, CT054, CT056 to CT059, an operation has no second derivative, or one that is not finite,
            with the module that it is in; CT053, two differences of gradients agree with each other and not with the
            product.
    """
    if mode != "auto" and WAYS[mode].is_approximate:
        return _of_differences(operator(problem.sampled(NUM_OF_DIFFERENCES), mode=mode), seed)
    num = min(NUM_DIFFERENCED, problem.num_samples)
    unavailable: dict[str, str] = {}
    without: str | None = None
    noise: float | None = None
    gradient: float | None = None
    difference: float | None = None
    tolerance = _AGREEMENT * 10
    try:
        num = num_drawn(operator, problem, memory_budget)
        part = problem.restricted(problem.spread(num), problem.dtype)
        num = part.num_samples
        rows, few = range(num), spread(num, NUM_DIFFERENCED)
        working = operator(part, memory_budget=memory_budget, **PLAINLY)
        size = max(1, working.batch_size // 2) if problem.dtype != torch.float64 else working.batch_size
        small = min(num, num_small(working))
        vector = _unit(working, seed)
        image, symmetry = symmetry_of(working, vector, seed)
        if not _is_finite(working, image):
            return _nothing(num, "the loss or its gradient is not finite")
        try:
            # its own copy, which is moved along the vector below
            exact = part.restricted(rows, torch.float64) if problem.dtype != torch.float64 else part.copied()
            exact = exact.holding_constants()  # which the differences do not move
            twin = operator(exact.restricted(rows, torch.float64), batch_size=size, **PLAINLY)
            noise = or_asymmetry(distance(working, twin, vector, image, seed), symmetry, working.space.dim)
            if noise == 0.0 and problem.dtype != torch.float64 and not bool(image.any()):
                noise, unavailable["noise_floor"] = None, "every product was zero, which has no relative error"
            else:
                noise = math.hypot(noise, beyond_kinks(working, problem, vector, image))
            if problem.dtype != torch.float64:
                gradient = gradient_error(working, twin, problem)
            for some in (spread(num, small), few) if small > len(few) else (few,):  # of many samples some are at kinks
                of_some = Hessian(exact.restricted(some, torch.float64), batch_size=size, **PLAINLY)
                difference = _finite_difference(of_some, vector.double(), _STEPS, _AGREEMENT)
                if difference is not None:
                    break
        except (OutOfMemory, LoadError, TypeError, RuntimeError) as error:
            without = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            if isinstance(error, OutOfMemory) or problem.dtype == torch.float64:
                unavailable = {"noise_floor": f"not in float64: {without}", "finite_difference": without}
            else:  # a program that is fixed to its precision: its own differences are coarse, and better than none
                noise = sensitivity(working, vector, image, seed)
                held = part.copied().holding_constants()
                own = Hessian(held.restricted(few, problem.dtype), batch_size=size, **PLAINLY)
                difference, tolerance = _finite_difference(own, vector, _COARSE_STEPS, _COARSE_AGREEMENT), 0.1
    except (OutOfMemory, TypeError, RuntimeError) as error:
        return _nothing(num, (str(error).strip().splitlines() or [type(error).__name__])[0][:200])
    except DerivativeError as error:
        raise located(error, problem) from error
    except CurvtoolError as error:  # the samples may all be ignored by the loss
        return _nothing(num, error.message)
    if difference is None:
        unavailable.setdefault("finite_difference", "no two step sizes agreed (kinks on the way)")
    elif difference > tolerance:
        wrong = DerivativeError(
            "CT053",
            "the second derivative of the model is wrong: an operation drops curvature without an error",
            expected="a Hessian product equal to the difference of gradients, to 1 %",
            received=f"a relative distance of {difference:.2g}",
            remedy="write custom autograd functions (once_differentiable, raw kernels) in plain torch; or "
            "--hvp finite-difference, approximate",
        )
        raise located(wrong, problem)
    return Preflight(num, symmetry, difference, noise, unavailable, without, gradient)


def _nothing(num_samples: int, reason: str) -> Preflight:
    missing = dict.fromkeys(("symmetry", "finite_difference", "noise_floor"), reason)
    return Preflight(num_samples, None, None, None, missing)


def _of_differences(operator: CurvatureOperator, seed: int) -> Preflight:
    _, symmetry = symmetry_of(operator, _unit(operator, seed), seed)
    missing = {"finite_difference": "the products are differences of gradients themselves"}
    num = operator.problem.num_samples
    return Preflight(num, symmetry, None, operator.execution.difference_step.error, missing)


def _is_finite(operator: CurvatureOperator, image: torch.Tensor) -> bool:
    """Whether a product is; False where the loss is to blame, which tells of itself when it is taken.

    Raises:
        DerivativeError: CT054, the loss and its gradient are finite, and the product is not.
    """
    if not operator.cluster.any(not bool(torch.isfinite(image).all())):
        return True
    try:
        operator.loss_and_gradient()
    except LoadError:
        return False
    raise not_finite("a product")


def _unit(operator: CurvatureOperator, seed: int) -> torch.Tensor:
    vector = operator.space.normal(seed, 7, 1)
    return vector / operator.space.norm(vector)


def _finite_difference(
    operator: Hessian, vector: torch.Tensor, steps: Sequence[float], agreement: float
) -> float | None:
    """Relative distance of H v from (g(theta + hv) - g(theta - hv)) / 2h, h shrunk until two steps agree.

    Raises:
        DerivativeError: CT054, the product is not finite.
    """
    parameters = list(operator.problem.parameters.values())
    space, parts = operator.space, split(vector, operator.shapes)
    image = operator.matvec(vector)
    if not _is_finite(operator, image):
        return None

    def gradient_at(step: float) -> torch.Tensor:
        with torch.no_grad():
            for parameter, part in zip(parameters, parts, strict=True):
                parameter.add_(part, alpha=step)
        try:
            return operator.loss_and_gradient()[1]
        finally:
            with torch.no_grad():
                for parameter, part in zip(parameters, parts, strict=True):
                    parameter.sub_(part, alpha=step)

    last: torch.Tensor | None = None
    for step in steps:
        difference = gradient_at(step).sub_(gradient_at(-step)).div_(2 * step)
        if last is not None:
            length = float(space.norm(difference))
            if length == 0 and float(space.norm(image)) > 0:  # rounded away, in a model that computes in fewer digits
                return None
            if float(space.norm(last.sub_(difference))) <= agreement * length:
                scale = max(float(space.norm(image)), length)  # a product of zero may be a lost derivative
                return float(space.norm(difference.sub_(image))) / scale if scale > 0 else 0.0
        last = difference
    return None


def preflight_jacobian(problem: Problem) -> Preflight:
    """The noise floor of Jacobian norms: the largest relative difference from float64 under random rounding over a few
    examples."""
    rows = problem.spread(NUM_EXAMPLES)
    missing = dict.fromkeys(("symmetry", "finite_difference"), "no Hessian product takes part")
    try:
        norms: list[np.ndarray] = []
        for dtype in (problem.dtype, torch.float64):
            jacobian = InputJacobian(problem.restricted(rows, dtype), memory_budget=2**30, form="torch")
            if jacobian.output_dim > MAX_OUTPUTS:
                missing["noise_floor"] = f"more than {MAX_OUTPUTS} outputs"
                return Preflight(len(rows), None, None, None, missing)
            with RandomRounding() if norms else nullcontext():
                norms.append(jacobian.materialize().double().flatten(1).norm(dim=1).cpu().numpy())
    except (OutOfMemory, TypeError, RuntimeError) as error:
        missing["noise_floor"] = str(error).strip().splitlines()[0][:200]
        return Preflight(len(rows), None, None, None, missing)
    noise = float(np.max(np.abs(norms[0] - norms[1]) / np.maximum(norms[1], 1e-300)))
    return Preflight(len(rows), None, None, noise, missing)
