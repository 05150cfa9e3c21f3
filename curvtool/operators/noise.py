"""The noise of products: how far those of the working precision are from those in float64, on samples of all the data.

A ReLU whose argument rounds across its kink, or a loss near zero whose curvature is a difference of large numbers, may
make the products of a few samples wrong by far more than a unit of rounding. So samples are drawn over all the data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any

import torch

from curvtool import device
from curvtool.errors import CurvtoolError, OutOfMemory
from curvtool.linalg.space import VectorSpace
from curvtool.operators.calibration import CALIBRATION_SAMPLES
from curvtool.operators.random_rounding import RandomRounding
from curvtool.problem.kinks import rows_at_kinks
from curvtool.problem.tree import num_bytes

if TYPE_CHECKING:
    from curvtool.operators.curvature import CurvatureOperator
    from curvtool.problem.problem import Problem

FEWEST, MOST = 32, 256  # samples on which the noise is measured; more where their graphs are small
NOISE_OF_GRADIENTS = 3  # all data's in units of a part's
_FAR_FROM_SYMMETRIC = 10  # times the noise: below that a product's own rounding is all that its asymmetry shows
_SHARE = {False: 4, True: 8}  # of the data: two products of them and one in float64 cost about as much as one of all
_MORE_VECTORS, _IN_THE_SPAN = 3, 1e-3  # where calls alone cost; a product that others span shows no direction
_SMALL = 16  # times fewer samples than a batch has at most (16 MiB)
_MOST_BYTES = 2**26  # of the drawn samples, which are copied
PLAINLY: dict[str, Any] = {"mode": "fresh", "form": "torch"}  # what a product is compared with
# times the cost of a product: of a graph that is not kept, of float64, and of float64 where a CPU convolves images;
# measured on two cores for MLPs (3 to 3.9 together) and convolutions (10)
_FRESH, _DOUBLE, _IMAGES = 1.5, 2.25, 2.5
_WORTH = 0.2  # of a run's cost, beyond the product that it stands for
# a mean loss below which float64 may have lost as much as float32, and both agree: random rounding takes up to a half
# of a product more, in calls
_SATURATED = 1e-6
_DRAWS = 3  # of rounding, beside the one that is measured
_LUCKY = 2.5  # times that one, from which on it was small by luck
FAILURES = (CurvtoolError, RuntimeError, TypeError, NotImplementedError)


def num_drawn(kind: type[CurvatureOperator], problem: Problem, memory_budget: int | None = None) -> int:
    """How many samples the noise is measured on: all where their graphs are so small that calls alone cost."""
    few = kind(problem.sampled(CALIBRATION_SAMPLES), memory_budget=memory_budget, **PLAINLY)
    num = max(FEWEST, min(problem.num_samples // _SHARE[_has_images(few.problem)], MOST), num_small(few))
    of_sample = num_bytes({"x": few.problem.data.inputs, "y": few.problem.data.targets}) // few.problem.num_samples
    return min(num, max(FEWEST, _MOST_BYTES // max(of_sample, 1)), problem.num_samples)


def _has_images(problem: Problem) -> bool:
    """Whether the model convolves images on a CPU, which is slow in float64."""
    return device.is_host(problem.device) and problem.rewritable(problem.first(1))["channels-last"]


def distance(
    working: CurvatureOperator, exact: CurvatureOperator, vector: torch.Tensor, image: torch.Tensor, seed: int = 0
) -> float:
    """||fl(A v) - A v|| over the smaller one's norm, A v in float64; infinite where the image is not finite.

    In float64 itself, and where the loss is nearly zero, A v is under random rounding. The larger of what is measured
    (`_measured`) and of what other draws of rounding would make of it.

    Args:
        working: the matrix in the working precision.
        exact: the same in float64.
        vector: v, a random unit vector.
        image: fl(A v).
        seed: of further vectors.
    """
    if working.problem.dtype == torch.float64:
        draws = _DRAWS if working.problem.num_samples <= num_small(working) else 1
        others = [_ratio([_apart(exact, vector, image, True, 1 + draw)]) for draw in range(draws)]
        return max(_measured(working, exact, vector, image, seed), *others)
    return _or_another_draw(_measured(working, exact, vector, image, seed), working, vector, image)


def _measured(
    working: CurvatureOperator, exact: CurvatureOperator, vector: torch.Tensor, image: torch.Tensor, seed: int = 0
) -> float:
    """The distance as it is measured.

    Where the samples' graphs are so small that calls alone cost, the worst of several random vectors over their root
    mean square product (one may happen to miss the error, or the matrix), and of a step of subspace iteration from them
    (the error may lie in the direction of a leading eigenvector).
    """
    space = working.space
    at_random = working.problem.dtype == torch.float64 or _is_saturated(working)
    if working.problem.num_samples > num_small(working):
        return _ratio([_apart(exact, vector, image, at_random)])
    for each in (working, exact):
        each.execution.mode = "kept"  # the same products, and several of them
    vectors, images, pairs = [vector], [image], [_apart(exact, vector, image, at_random)]
    for number in range(2, 2 + _MORE_VECTORS):
        other = space.normal(seed, 7, number)
        other = other / space.norm(other)
        vectors.append(other)
        images.append(working.matvec(other))
        pairs.append(_apart(exact, other, images[-1], at_random))
    leading: list[torch.Tensor] = []
    for product in images[: space.dim]:
        rest = product
        for one in leading:
            rest = rest - space.inner(one, rest) * one
        length = float(space.norm(rest))
        if math.isfinite(length) and length > _IN_THE_SPAN * float(space.norm(product)):
            leading.append(rest / length)
    beside = [_apart(exact, one, working.matvec(one), at_random) for one in leading]
    size = math.sqrt(sum(norm**2 for _, norm in pairs) / len(pairs))
    found = max(_ratio([(gap, size) for gap, _ in pairs]), _ratio(beside))
    form = space.in_double().gram(torch.stack(vectors).double(), torch.stack(images).double())
    return or_asymmetry(found, float((form - form.T).abs().max()) / size if size > 0 else 0.0, space.dim)


def _or_another_draw(noise: float, working: CurvatureOperator, vector: torch.Tensor, image: torch.Tensor) -> float:
    """The noise, or what parameters moved by half a unit of rounding make of it, where that is far more.

    What was measured is one draw of rounding. Where a sample decides whose loss is nearly saturated, it is the error of
    that sample's outputs, one number, which may be near zero by luck; in a batch of another size it then is another.
    Over 400 small networks the second look is 0.7 times the first at the median, and 20 times in those.

    Args:
        noise: as measured against float64.
        working: the matrix in the working precision.
        vector: v.
        image: fl(A v).
    """
    if not 0.0 < float(working.space.norm(image)) < math.inf:
        return noise
    draws = _DRAWS if working.problem.num_samples <= num_small(working) else 1
    with suppress(*FAILURES):  # a model that cannot be copied
        found = [sensitivity(working, vector, image, seed) / 2 for seed in range(draws)]
        other = math.sqrt(sum(each**2 for each in found) / draws)
        return other if math.isfinite(other) and other > _LUCKY * noise else noise
    return noise


def symmetry_of(operator: CurvatureOperator, vector: torch.Tensor, seed: int) -> tuple[torch.Tensor, float]:
    """A v, and |<u, A v> - <v, A u>| / max(||A v||, ||A u||) for a random unit vector u."""
    space, other = operator.space.in_double(), operator.space.normal(seed, 7, 0)
    other = other / operator.space.norm(other)
    image, of_other = operator.matvec(vector), operator.matvec(other)
    pairs = [(other.double(), image.double()), (vector.double(), of_other.double())]
    gap = abs(float(space.inner(*pairs[0])) - float(space.inner(*pairs[1])))
    size = max(float(space.norm(product)) for _, product in pairs)
    return image, gap / size if size > 0 else 0.0


def or_asymmetry(noise: float, symmetry: float, dim: int) -> float:
    """The noise, or what products that are far from symmetric say of it, where that is far more.

    Float64 itself may be wrong, and as float32 is: of a sample whose loss is 1e-30, a right class's probability is 1 in
    both, 1 - p is 0, and half of the second derivative is lost. Then the two agree, and the matrix is not symmetric.

    Args:
        noise: as measured against float64.
        symmetry: see `symmetry_of`; sqrt(P) times that is about ||A - A^T||_F / ||A||_F.
        dim: P.
    """
    found, rounding = math.sqrt(dim) * symmetry, math.sqrt(dim) * torch.finfo(torch.float64).eps
    return found if found > _FAR_FROM_SYMMETRIC * max(noise, rounding) else noise


def beyond_kinks(working: CurvatureOperator, problem: Problem, vector: torch.Tensor, image: torch.Tensor) -> float:
    """What the samples that rounding moves across a kink (`rows_at_kinks`) add to the noise: by few of all samples.

    Args:
        working: the matrix of a part of the data, in the working precision.
        problem: of all data.
        vector: v.
        image: fl(A v), of that part.
    """
    if working.problem.num_samples == problem.num_samples:  # none is left out of the noise as it was measured
        return 0.0
    if problem.dtype == torch.float64:  # there is nothing finer to show where its kinks lie
        return 0.0
    with suppress(*FAILURES):  # a model that cannot be watched, or that has no float64
        return _beyond_kinks(working, problem, vector, image)
    return 0.0


def _beyond_kinks(working: CurvatureOperator, problem: Problem, vector: torch.Tensor, image: torch.Tensor) -> float:
    near = rows_at_kinks(problem, working.batch_size)
    if not near.rows:
        return 0.0
    own, precise = (
        type(working)(problem.restricted(near.rows, dtype), batch_size=len(near.rows), **PLAINLY)
        for dtype in (problem.dtype, torch.float64)
    )
    product = precise.matvec(vector.double())
    gap = float(precise.space.norm(product - own.matvec(vector)))
    share, size = _weight(own.problem) / _weight(problem), 1.0
    if problem.reduction == "sum":
        share, size = 1.0, _weight(problem) / _weight(working.problem)
    # errors of different samples point wherever they like, and add up in quadrature
    gap *= share * math.sqrt(near.of_each)
    whole = float(working.space.norm(image * size + product * share))
    return gap / whole if whole > 0 else math.inf if gap else 0.0


def _weight(problem: Problem) -> float:
    return problem.weight_of(range(problem.num_samples))


def _apart(
    exact: CurvatureOperator, vector: torch.Tensor, image: torch.Tensor, at_random: bool, seed: int = 0
) -> tuple[float, float]:
    with RandomRounding(seed) if at_random else nullcontext():
        true = exact.matvec(vector.double())
    norm, own = float(exact.space.norm(true)), float(exact.space.norm(image.double()))
    # errors are stated in proportion to what was computed, which may be the smaller one
    return float(exact.space.norm(true.sub_(image))), min(norm, own) if own > 0 else norm


def _is_saturated(operator: CurvatureOperator) -> bool:
    """Whether the loss is so small that float64 itself may be wrong."""
    problem = operator.problem
    total = 0.0
    for rows in problem.ranges(operator.batch_size):
        with problem.context(len(rows)):
            total += float(problem.loss_sum(problem.parameters, problem.batch(rows)).detach())
    return abs(total) < _SATURATED * problem.total_weight


def _ratio(pairs: Sequence[tuple[float, float]]) -> float:
    """The largest error over the largest product."""
    if not all(math.isfinite(number) for pair in pairs for number in pair):  # NaN compares as anything
        return math.inf
    gap, norm = max((gap for gap, _ in pairs), default=0.0), max((norm for _, norm in pairs), default=0.0)
    if gap == 0.0:
        return 0.0
    return gap / norm if norm > 0 else math.inf


def num_small(operator: CurvatureOperator) -> int:
    """Samples whose graphs are so small that calls alone cost."""
    return min(operator.execution.small_batch_size // _SMALL, 2048)


def sensitivity(operator: CurvatureOperator, vector: torch.Tensor, image: torch.Tensor, seed: int = 0) -> float:
    """||A' v - A v|| / ||A v||, A' at parameters that each differ by one unit of rounding: up or down, at random.

    For a model that runs in no other precision: rounding inside it does about as much.
    """
    moved = operator.problem.copied()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in moved.parameters.values():
            signs = torch.randint(0, 2, parameter.shape, generator=generator).to(parameter) * 2 - 1
            parameter.mul_(1 + operator.space.eps * signs)
    other = type(operator)(moved, batch_size=operator.batch_size, **PLAINLY).matvec(vector)
    size, gap = float(operator.space.norm(image)), float(operator.space.norm(other.sub_(image)))
    return gap / size if size > 0 and math.isfinite(gap) else 0.0 if gap == 0 else math.inf


def gradient_error(working: CurvatureOperator, exact: CurvatureOperator, problem: Problem) -> float:
    """What rounding may do to the norm of the gradient over all data, absolute: a product's relative noise says nothing
    of it, for a gradient is a sum that cancels, most of all near a minimum.

    Three times the distance from float64 over the samples at hand, whose errors need not point the same way.

    Args:
        working: the matrix of a part of the data, in the working precision.
        exact: the same in float64.
        problem: of all data.
    """
    own, true = working.loss_and_gradient()[1], exact.loss_and_gradient()[1]
    size = _weight(problem) / _weight(working.problem) if problem.reduction == "sum" else 1.0
    return NOISE_OF_GRADIENTS * size * float(exact.space.norm(true.sub_(own)))


def measured_noise(
    kind: type[CurvatureOperator], problem: Problem, seed: int = 0, memory_budget: int | None = None
) -> float:
    """||fl(A v) - A v|| / ||A v|| for a random v, by samples drawn over all the data, on this process alone.

    By rounded parameters (`sensitivity`) where float64 is not to be had; the unit of rounding where nothing is.
    """
    eps = float(torch.finfo(problem.dtype).eps)
    try:
        rows = problem.spread(num_drawn(kind, problem, memory_budget))
        part = problem.restricted(rows, problem.dtype)
        working = kind(part, memory_budget=memory_budget, **PLAINLY)
        vector = working.space.normal(seed, 7, 1)
        vector = vector / working.space.norm(vector)
        image, symmetry = symmetry_of(working, vector, seed)
        try:
            size = max(1, working.batch_size // 2)
            exact = kind(part.restricted(range(part.num_samples), torch.float64), batch_size=size, **PLAINLY)
            apart = or_asymmetry(distance(working, exact, vector, image, seed), symmetry, working.space.dim)
            return max(math.hypot(apart, beyond_kinks(working, problem, vector, image)), eps)
        except FAILURES as error:
            if isinstance(error, OutOfMemory):
                raise
            return max(sensitivity(working, vector, image, seed), eps)
    except FAILURES:
        return eps


def size_in_float64(
    kind: type[CurvatureOperator], problem: Problem, memory_budget: int | None = None, seed: int = 0
) -> float:
    """2 sqrt(P) ||A v||, the largest of a few random unit vectors v in float64 under random rounding: an estimate of
    ||A||_F from above, of what float64 can tell of it.

    By samples drawn over all the data, on this process alone; 0 where it is not to be had.
    """
    with suppress(*FAILURES):
        rows = problem.spread(num_drawn(kind, problem, memory_budget))
        exact = kind(problem.restricted(rows, torch.float64), memory_budget=memory_budget, **PLAINLY)
        norms = [0.0]
        for number in range(1, 2 + _MORE_VECTORS):
            vector = exact.space.normal(seed, 7, number)
            with RandomRounding(number):
                norms.append(float(exact.space.norm(exact.matvec(vector / exact.space.norm(vector)))))
        return 2 * math.sqrt(exact.space.dim) * max(norms) if all(map(math.isfinite, norms)) else 0.0
    return 0.0


def cost_of_precise(operator: CurvatureOperator) -> float:
    """What a product over all data in float64 costs, in products of the working precision; infinite where it is not to
    be had. By the kind of device and never by timings, so that a run comes out the same again."""
    problem, execution = operator.problem, operator.execution
    if problem.sharded is not None or execution.is_approximate:
        return math.inf
    if problem.dtype == torch.float64:  # only where products are run in another way
        plain = execution.form == "torch" and execution.describe().startswith(("kept", "fresh"))
        return math.inf if plain else _FRESH
    if not device.has_fast_double(problem.device):
        return math.inf
    return _FRESH * _DOUBLE * (_IMAGES if _has_images(problem.sampled(1)) else 1.0)


def precise_product(operator: CurvatureOperator, vector: torch.Tensor) -> torch.Tensor | None:
    """A v in float64 over all data, by torch's own operations in reverse mode; this rank's part of it, in float64.

    Args:
        operator: of whose problem a copy in float64 is made, and given up again.
        vector: v, this rank's part of it.

    Returns:
        None where that costs, beyond a usual product, more than a fifth of the products so far, does not fit the memory
        budget or fails.
    """
    problem, cluster = operator.problem, operator.cluster
    cost = cost_of_precise(operator)
    fits = 8 * (problem.num_params + 4 * operator.space.dim) <= operator.execution.memory_budget // 2
    if cluster.any(cost - 1 > _WORTH * operator.num_products or not fits):
        return None
    whole = operator.shared.argument(vector).double()
    total: torch.Tensor | None = None
    with suppress(*FAILURES):
        total = operator.own_part(problem.restricted(range(problem.num_samples), torch.float64)).matvec(whole)
    if cluster.any(total is None):
        return None
    assert total is not None
    operator.num_products += 1
    operator.data_passes += 1
    return VectorSpace(operator.space.dim, torch.float64, problem.device, cluster).reduced(total)
