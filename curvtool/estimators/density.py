"""The spectral density of a symmetric operator by stochastic Lanczos quadrature."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import numpy as np
import torch

from curvtool.errors import STOPPING, Interrupted, UsageError, cause_of, not_finite
from curvtool.estimators.cost import Cost, Meter
from curvtool.estimators.observer import SILENT, Observer
from curvtool.linalg.quadrature import Quadrature, QuadraturesInStep, cumulative, smoothed
from curvtool.linalg.space import VectorSpace
from curvtool.operators.base import LinearOperator

Method = Literal["auto", "probes", "exact"]
_WORTH = 1.5  # times the probes' products: what knowing all eigenvalues may cost
METHODS: tuple[str, ...] = get_args(Method)
NUM_PROBES = 4
NUM_STEPS = 50
_FEWEST_STEPS = 10  # of a probe that counts where it was stopped on its way
_GRID_POINTS = 512
_WIDTH = 0.01  # of the spectrum's length


@dataclass(frozen=True)
class Mass:
    """Attributes:
    value: the share of the eigenvalues.
    low: what the nodes leave possible at least, mean over the probes.
    high: at most.
    stderr: standard error of the value over the probes; None with one probe, 0 for all eigenvalues.
    """

    value: float
    low: float
    high: float
    stderr: float | None


@dataclass(frozen=True)
class DensityResult:
    """Attributes:
    grid: points t, ascending, shape (n,).
    density: the smoothed density at them, mean over probes; its integral is 1.
    density_stderr: its standard error over the probes; None with one probe, 0 for all eigenvalues.
    cumulative: share of the eigenvalues below each point, likewise.
    cumulative_low: what the nodes leave possible at least.
    cumulative_high: at most.
    cumulative_stderr: standard error of `cumulative` over the probes.
    quadratures: nodes and weights of every probe, in the complement of the outliers; or one of all eigenvalues.
    outliers: eigenvalues that were known beforehand, placed as points of mass 1/P each.
    width: standard deviation of the smoothing.
    below_zero: mass below -threshold, with threshold the noise that was told.
    near_zero: mass within `near` of zero.
    below_near: mass below -near.
    near: that distance.
    trace: the trace that the quadrature implies, P sum w theta, and the outliers.
    trace_stderr: its standard error over the probes.
    method: `probes`, or `exact` where all eigenvalues were computed.
    num_probes: probes that were completed; 0 for `exact`.
    num_steps: nodes of each.
    converged: whether all probes were made, of as many steps as were asked for.
    cost: products and time.
    """

    grid: np.ndarray
    density: np.ndarray
    density_stderr: np.ndarray | None
    cumulative: np.ndarray
    cumulative_low: np.ndarray
    cumulative_high: np.ndarray
    cumulative_stderr: np.ndarray | None
    quadratures: tuple[Quadrature, ...]
    outliers: tuple[float, ...]
    width: float
    below_zero: Mass
    near_zero: Mass
    below_near: Mass
    near: float
    trace: float
    trace_stderr: float | None
    method: Literal["probes", "exact"]
    num_probes: int
    num_steps: int
    converged: bool
    cost: Cost


def density(
    operator: LinearOperator,
    *,
    num_probes: int = NUM_PROBES,
    num_steps: int = NUM_STEPS,
    method: Method = "auto",
    outliers: tuple[float, ...] = (),
    outlier_vectors: torch.Tensor | None = None,
    width: float | None = None,
    near: float | None = None,
    noise: float = 0.0,
    memory_budget: int = 2**32,
    seed: int = 0,
    observer: Observer = SILENT,
) -> DensityResult:
    """phi(t) = (1/P) sum_i N(t; lambda_i, width^2), estimated by v^T N(t; A, width^2) v over random unit vectors v.

    Each v gives Gauss quadrature nodes and weights by Lanczos with full reorthogonalisation (Ubaru, Chen, Saad 2017;
    Ghorbani, Krishnan, Xiao 2019, arXiv:1901.10159). Known outliers are taken out of v and put back as points of mass
    1/P. The error is that over the probes: what is narrower than `width`, or than the nodes lie apart, is not resolved.
    Shares come with the bounds that the nodes leave (for the mean over these probes, in exact arithmetic).

    A matrix with no more rows than the probes would take products is made whole, and all its eigenvalues are computed:
    nothing random is left, and nothing needs to be known beforehand.

    Args:
        operator: the matrix.
        method: `probes`, `exact`, or `auto`: exact where that takes 1.5 times the probes' products at most, and the
            budget holds the matrix.
        num_probes: vectors v; their spread needs two.
        num_steps: nodes, and products, of each; fewer where the budget does not hold so many vectors. Probes go in step
            where the operator gains by it (`block_width`) and the budget holds their bases.
        outliers: eigenvalues known beforehand.
        outlier_vectors: their orthonormal vectors, shape (k, P).
        width: standard deviation of the smoothing; a hundredth of the spectrum's length if None.
        near: what counts as near zero; a hundredth of the largest magnitude if None.
        noise: the relative noise of a product: what is below -noise max|theta| counts as below zero.
        memory_budget: bytes that the basis may take.
        seed: of the vectors v.
        observer: hears progress.

    Raises:
        UsageError: CT001, the arguments make no sense.
        Interrupted: stopped on the way; its `partial` holds the probes that were completed, or those that were on
            their way if none was.
    """
    for name, number, least in (("probes", num_probes, 1), ("steps", num_steps, 2)):
        if number < least:
            raise UsageError("CT001", f"too few {name}", expected=f"{least} or more", received=str(number))
    for name, size in (("width", width), ("near-zero", near)):
        if size is not None and not 0 < size < math.inf:
            raise UsageError("CT001", f"no such {name}", expected="above 0", received=str(size))
    if method not in METHODS:
        raise UsageError(
            "CT001", f"unknown method {method!r}", expected=", ".join(METHODS), received=method, remedy="--method auto"
        )
    if len(outliers) != (0 if outlier_vectors is None else len(outlier_vectors)):
        raise UsageError(
            "CT001", "outliers and their vectors differ in number", expected="a vector for each", received="another"
        )
    space = operator.space
    if method == "exact" or (method == "auto" and is_small(space, num_probes, num_steps, memory_budget)):
        return _exactly(operator, width, near, noise, memory_budget, observer)
    locked = outlier_vectors if outliers else None
    steps = max(2, min(num_steps, space.dim - len(outliers)))
    meter = Meter(operator)
    found: list[Quadrature] = []
    running: list[Quadrature] = []

    def implied_trace(quadratures: list[Quadrature]) -> str:
        traces = _traces(quadratures, space.dim, outliers)
        spread = f" +- {float(traces.std(ddof=1)) / math.sqrt(len(traces)):.2g}" if len(traces) > 1 else ""
        return f"implied trace {float(traces.mean()):.5g}{spread}"

    def result(quadratures: list[Quadrature], complete: bool = True) -> DensityResult:
        return _result(operator, tuple(quadratures), outliers, width, near, noise, len(quadratures), meter, complete)

    def room() -> list[int]:
        """Steps that fit the budget, and probes that go in step: as a run that was stopped had them."""
        affordable = memory_budget // max(space.vector_bytes, 1) - 2 - len(outliers)
        fitting = max(2, min(steps, affordable))
        return [fitting, min(num_probes, operator.block_width, max(1, affordable // (fitting + 4)))]

    def quadratures(first: int, seeds: Sequence[tuple[int, ...]]) -> list[Quadrature]:
        nonlocal running
        group = QuadraturesInStep(operator.matmat, space, fitting, seeds, locked)
        observer.resume("bases", operator, group)
        for running in group.steps():
            done = first * fitting + len(running) * len(running[0].nodes)
            observer.advance(done, implied_trace(found + running), num_probes * fitting - done)
        return group.quadratures

    observer.begin("spectral density", float(num_probes * steps))
    fitting = steps
    try:
        fitting, together = observer.remembered("room", None, room)
        for first in range(0, num_probes, together):
            seeds = [(seed, 20, probe) for probe in range(num_probes)[first : first + together]]
            found += observer.remembered("quadratures", operator, partial(quadratures, first, seeds))
            running = []
    except STOPPING as error:
        stop = cause_of(error)
        # several that were on their way are as good as whole ones of fewer steps
        far = found or (running if running and len(running[0].nodes) >= _FEWEST_STEPS else [])
        raise Interrupted(result(far, complete=False) if far else None, stop) from stop
    # a budget that cut the steps short is not what was asked for
    return result(found, complete=fitting == min(num_steps, space.dim - len(outliers)))


def is_small(space: VectorSpace, num_probes: int, num_steps: int, memory_budget: int) -> bool:
    """Whether all eigenvalues take hardly more products than the probes would, and the matrix fits the budget.

    The probes are not alone: outliers are sought before them, and their trace is compared with other probes. And all
    eigenvalues have no error but rounding.
    """
    return space.dim <= _WORTH * num_probes * num_steps and space.dim * space.whole_bytes <= memory_budget


def _exactly(
    operator: LinearOperator,
    width: float | None,
    near: float | None,
    noise: float,
    memory_budget: int,
    observer: Observer,
) -> DensityResult:
    dim, meter = operator.space.dim, Meter(operator)
    observer.begin("the whole matrix", float(dim))
    try:
        matrix = operator.materialize(
            memory_budget, lambda done: observer.advance(done, f"{dim} columns in all", dim - done)
        )
    except STOPPING as error:
        stop = cause_of(error)
        raise Interrupted(None, stop) from stop
    dense = matrix.to("cpu", torch.float64).numpy()
    if not np.isfinite(dense).all():
        raise not_finite("a product")
    nodes = np.linalg.eigvalsh((dense + dense.T) / 2)
    found = Quadrature(nodes, np.full(dim, 1 / dim), is_exact=True)
    return _result(operator, (found,), (), width, near, noise, 0, meter)


def _result(
    operator: LinearOperator,
    found: tuple[Quadrature, ...],
    outliers: tuple[float, ...],
    width: float | None,
    near: float | None,
    noise: float,
    num_probes: int,
    meter: Meter,
    complete: bool = True,
) -> DensityResult:
    dim, exact = operator.space.dim, num_probes == 0
    share = (dim - len(outliers)) / dim
    points = Quadrature(np.array(outliers), np.full(len(outliers), 1 / dim))
    nodes = np.concatenate([q.nodes for q in found] + [points.nodes])
    low, high = float(nodes.min()), float(nodes.max())
    scale = max(abs(low), abs(high))
    width = width or _WIDTH * (high - low) or _WIDTH * scale or 1.0
    near = near or _WIDTH * scale or 1.0
    grid = np.linspace(low - 5 * width, high + 5 * width, _GRID_POINTS)
    # a grid too coarse for the smoothing would miss the peaks: as fine as three points a width, within reason
    if grid[1] - grid[0] > width / 3:
        grid = np.linspace(low - 5 * width, high + 5 * width, min(int(3 * (high - low + 10 * width) / width), 20_000))
    curves = np.stack([share * smoothed(q, grid, width) for q in found]) + smoothed(points, grid, width)
    exactly = Quadrature(points.nodes[np.argsort(points.nodes)], points.weights, is_exact=True)
    shares = np.stack([share * cumulative(q, grid) for q in found]) + cumulative(exactly, grid)
    threshold = max(noise, 1e-14) * scale or 1e-300

    def spread(values: np.ndarray) -> np.ndarray | None:
        """The standard error over the probes."""
        if exact:
            return np.zeros(values.shape[1:])
        return values.std(0, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else None

    def stderr_of(values: np.ndarray) -> float | None:
        error = spread(values)
        return None if error is None else float(error)

    def mass(ends: tuple[float, ...]) -> Mass:
        """Below the last end, and above the first of two."""
        sides = np.stack([share * cumulative(q, np.array(ends)) for q in found]) + cumulative(exactly, np.array(ends))
        low, value, high = (sides[:, i, -1] for i in range(3))
        if len(ends) == 2:
            low, value, high = low - sides[:, 2, 0], value - sides[:, 1, 0], high - sides[:, 0, 0]
        return Mass(float(value.mean()), max(0.0, float(low.mean())), min(1.0, float(high.mean())), stderr_of(value))

    traces = _traces(found, dim, outliers)
    return DensityResult(
        grid=grid,
        density=curves.mean(0),
        density_stderr=spread(curves),
        cumulative=shares[:, 1].mean(0),
        cumulative_low=shares[:, 0].mean(0),
        cumulative_high=shares[:, 2].mean(0),
        cumulative_stderr=spread(shares[:, 1]),
        quadratures=found,
        outliers=tuple(outliers),
        width=width,
        below_zero=mass((-threshold,)),
        near_zero=mass((-near, near)),
        below_near=mass((-near,)),
        near=near,
        trace=float(traces.mean()),
        trace_stderr=stderr_of(traces),
        method="exact" if exact else "probes",
        num_probes=num_probes,
        num_steps=len(found[0].nodes),
        converged=complete,
        cost=meter.cost(),
    )


def _traces(quadratures: Sequence[Quadrature], dim: int, outliers: tuple[float, ...]) -> np.ndarray:
    """P times the mean node by each, and the outliers."""
    return np.array([(dim - len(outliers)) * float(q.weights @ q.nodes) for q in quadratures]) + sum(outliers)
