"""What the quadratures of a spectral density say: curves, shares and the trace, each with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from curvtool.estimators.accuracy.shares import Form, rounding_of_nodes, share_interval, share_stderr
from curvtool.estimators.cost import Cost
from curvtool.linalg.quadrature import Quadrature, cumulative, mass_bounds, smoothed
from curvtool.vocabulary import DensityMethod

_GRID_POINTS = 512
_WIDTH = 0.01  # of the spectrum's length
_BOUNDS_WORK = 1e7  # probes times points times steps^3 that sharp bounds along the grid may take: tenths of a second
_FEWEST_BOUNDS, _MOST_BOUNDS = 8, 128  # points of the grid that get them


@dataclass(frozen=True)
class Mass:
    """Attributes:
    value: the share of the eigenvalues, within its interval.
    low: lower end of its 95 % confidence interval: probes, nodes and rounding together.
    high: upper end.
    least: what the nodes leave possible at least, mean over these probes.
    most: at most.
    stderr: standard error over the probes, by their law at this value; 0 for all eigenvalues.
    """

    value: float
    low: float
    high: float
    least: float
    most: float
    stderr: float


@dataclass(frozen=True)
class DensityResult:
    """Attributes:
    grid: points t, ascending, shape (n,).
    density: the smoothed density at them, mean over probes; its integral is 1.
    density_low: lower end of its 95 % interval over the probes, pointwise.
    density_high: upper end.
    density_stderr: its standard error over the probes; 0 for all eigenvalues.
    cumulative: share of the eigenvalues below each point, likewise.
    cumulative_low: lower end of its 95 % confidence interval, pointwise: probes, nodes and rounding together.
    cumulative_high: upper end.
    quadratures: nodes and weights of every probe, in the complement of the outliers; or one of all eigenvalues.
    outliers: eigenvalues that were known beforehand, placed as points of mass 1/P each.
    width: standard deviation of the smoothing.
    below_zero: mass below -threshold.
    threshold: twice what rounding moves an eigenvalue.
    near_zero: mass within `near` of zero.
    below_near: mass below -near.
    near: that distance.
    trace: the trace that the quadrature implies, P sum w theta, and the outliers.
    trace_stderr: its standard error over the probes; 0 for all eigenvalues.
    trace_degrees: degrees of freedom of that standard error.
    trace_ci95: its 95 % confidence interval, probes and rounding together.
    method: `probes`, or `exact` where all eigenvalues were computed.
    num_probes: probes that were completed; 0 for `exact`.
    num_steps: nodes of each.
    converged: whether all probes were made, of as many steps as were asked for.
    cost: products and time.
    """

    grid: np.ndarray
    density: np.ndarray
    density_low: np.ndarray
    density_high: np.ndarray
    density_stderr: np.ndarray
    cumulative: np.ndarray
    cumulative_low: np.ndarray
    cumulative_high: np.ndarray
    quadratures: tuple[Quadrature, ...]
    outliers: tuple[float, ...]
    width: float
    below_zero: Mass
    threshold: float
    near_zero: Mass
    below_near: Mass
    near: float
    trace: float
    trace_stderr: float
    trace_degrees: float
    trace_ci95: tuple[float, float]
    method: DensityMethod
    num_probes: int
    num_steps: int
    converged: bool
    cost: Cost


@dataclass(frozen=True)
class Spectrum:
    """The quadratures of a matrix, and what is known beside them.

    Attributes:
        quadratures: of each probe, in the complement of the outliers; or one of all eigenvalues.
        outliers: eigenvalues known beforehand.
        dim: P.
        num_probes: 0 where all eigenvalues are known.
        noise: the relative error of a product.
        least: the absolute error that any eigenvalue may have; see `least_of`.
    """

    quadratures: Sequence[Quadrature]
    outliers: tuple[float, ...]
    dim: int
    num_probes: int
    noise: float
    least: float = 0.0

    @property
    def rest(self) -> int:
        """The dimension of the outliers' complement, where the probes are."""
        return self.dim - len(self.outliers)

    @property
    def nodes(self) -> np.ndarray:
        """Those of all quadratures, and the outliers."""
        return np.concatenate([*(q.nodes for q in self.quadratures), np.array(self.outliers)])

    @property
    def rounding(self) -> float:
        """How far rounding moves an eigenvalue."""
        return rounding_of_nodes(self.noise, float(np.abs(self.nodes).max()), self.least)

    def form(self, values: Sequence[np.ndarray]) -> Form:
        """v^T f(A) v in the complement, from f at the nodes of every quadrature, each (..., m)."""
        weights = np.concatenate([q.weights / (q.weights.sum() * len(self.quadratures)) for q in self.quadratures])
        return Form(np.concatenate(values, axis=-1), weights, self.num_probes, self.rest)

    def trace_form(self) -> Form:
        """Of A itself: the mean eigenvalue of the complement."""
        return self.form([q.nodes for q in self.quadratures])

    def trace_interval(self, error_probability: float = 0.05) -> tuple[float, float]:
        """Of the trace: probes, and products that are wrong by ||dA v||, all in one direction.

        dA is that of the whole matrix, ||dA||_F = noise ||A||_F with the outliers, though the probes leave these out.
        Each outlier carries an eigenvalue's own rounding.
        """
        form = self.trace_form()
        low, high = form.interval(error_probability)
        squares = self.rest * float(np.concatenate([q.nodes**2 for q in self.quadratures]) @ form.weights)
        squares += sum(value**2 for value in self.outliers)
        rounding = self.noise * math.sqrt(self.rest * squares) + len(self.outliers) * self.rounding
        rounding += self.rest * self.least
        placed = sum(self.outliers)
        return self.rest * float(low) + placed - rounding, self.rest * float(high) + placed + rounding

    def below(self, ends: tuple[float, ...]) -> Mass:
        """The mass below the last end, and above the first of two."""
        points, delta = np.array(ends), self.rounding
        inner = [self._bounds(q, points - delta, points + delta) for q in self.quadratures]
        middle = float(np.mean([_between(cumulative(q, points)[1]) for q in self.quadratures]))
        least = float(np.mean([max(0.0, low[-1] - (high[0] if len(ends) == 2 else 0.0)) for low, high in inner]))
        most = float(np.mean([min(1.0, high[-1] - (low[0] if len(ends) == 2 else 0.0)) for low, high in inner]))
        lows, highs = share_interval(np.array([least]), np.array([most]), self.num_probes, self.rest)
        fewest, expected, greatest = (self._placed(ends, shift) for shift in (-delta, 0.0, delta))
        part, one = self.rest / self.dim, 1 / self.dim
        low, high = (float(x) for x in (lows[0] * part + fewest * one, highs[0] * part + greatest * one))
        return Mass(
            value=min(max(middle * part + expected * one, low), high),
            low=low,
            high=high,
            least=least * part + fewest * one,
            most=most * part + greatest * one,
            stderr=part * share_stderr(middle, self.num_probes, self.rest),
        )

    def _bounds(self, quadrature: Quadrature, inside: np.ndarray, outside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The least mass below the points moved to the left, and the largest below those moved to the right."""
        return mass_bounds(quadrature, inside)[0], mass_bounds(quadrature, outside)[1]

    def _placed(self, ends: tuple[float, ...], shift: float) -> int:
        """Outliers below the last end, and above the first of two, with the range made wider by `shift`."""
        values = np.array(self.outliers)
        counted = values < ends[-1] + shift
        return int(np.sum(counted & (values > ends[0] - shift) if len(ends) == 2 else counted))

    def cumulative_bounds(self, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The 95 % interval of the share below every point.

        Sharp bounds cost an eigenproblem a point: along a long grid they are made at some of the points, and hold for
        those between because a share does not fall.
        """
        steps = max(len(q.nodes) for q in self.quadratures) + 1
        count = min(int(_BOUNDS_WORK / (len(self.quadratures) * steps**3)), _MOST_BOUNDS)
        chosen = np.unique(np.linspace(0, len(grid) - 1, max(count, 2)).round().astype(int))
        before = np.searchsorted(chosen, np.arange(len(grid)), side="right") - 1
        after = np.searchsorted(chosen, np.arange(len(grid)))
        delta = self.rounding
        least, most = np.zeros(len(grid)), np.zeros(len(grid))
        for q in self.quadratures:
            low, high = cumulative(q, grid - delta)[0], cumulative(q, grid + delta)[2]
            if count >= _FEWEST_BOUNDS:
                sharp_low, sharp_high = self._bounds(q, grid[chosen] - delta, grid[chosen] + delta)
                low, high = np.maximum(low, sharp_low[before]), np.minimum(high, sharp_high[after])
            least += low / len(self.quadratures)
            most += high / len(self.quadratures)
        lows, highs = share_interval(least, most, self.num_probes, self.rest)
        values = np.sort(self.outliers)
        fewest, greatest = np.searchsorted(values, grid - delta), np.searchsorted(values, grid + delta, side="right")
        return (lows * self.rest + fewest) / self.dim, (highs * self.rest + greatest) / self.dim


def _between(masses: np.ndarray) -> float:
    """Below the last end, less what is below the first of two."""
    return float(masses[-1] - (masses[0] if len(masses) == 2 else 0.0))


def density_result(
    spectrum: Spectrum, width: float | None, near: float | None, complete: bool, cost: Cost
) -> DensityResult:
    """Curves, shares and the trace; the arguments are those of `density`."""
    found, dim, outliers = spectrum.quadratures, spectrum.dim, spectrum.outliers
    low, high = float(spectrum.nodes.min()), float(spectrum.nodes.max())
    scale = max(abs(low), abs(high))
    width = max(width or _WIDTH * (high - low) or _WIDTH * scale or 1.0, 1e-290)  # of which the inverse is finite
    near = near or float(f"{_WIDTH * scale:.0e}") or 1.0  # to one digit: the same for other probes, to be compared
    grid = _grid(low, high, width)
    part = spectrum.rest / dim
    points = Quadrature(np.array(outliers), np.full(len(outliers), 1 / dim))
    placed = smoothed(points, grid, width)
    curve = spectrum.form([_kernel(q.nodes, grid, width) for q in found])
    curve_low, curve_high = curve.interval()
    lower, upper = spectrum.cumulative_bounds(grid)
    below = np.mean([part * cumulative(q, grid)[1] for q in found], axis=0)
    below = below + np.searchsorted(np.sort(outliers), grid) / dim
    trace = spectrum.trace_form()
    threshold = 2 * spectrum.rounding or 1e-300
    return DensityResult(
        grid=grid,
        density=part * curve.mean + placed,
        density_low=part * np.maximum(curve_low, 0.0) + placed,
        density_high=part * curve_high + placed,
        density_stderr=part * curve.stderr,
        cumulative=np.clip(below, lower, upper),
        cumulative_low=lower,
        cumulative_high=upper,
        quadratures=tuple(found),
        outliers=tuple(outliers),
        width=width,
        below_zero=spectrum.below((-threshold,)),
        threshold=threshold,
        near_zero=spectrum.below((-near, near)),
        below_near=spectrum.below((-near,)),
        near=near,
        trace=spectrum.rest * float(trace.mean) + sum(outliers),
        trace_stderr=spectrum.rest * float(trace.stderr),
        trace_degrees=float(trace.degrees),
        trace_ci95=spectrum.trace_interval(),
        method="probes" if spectrum.num_probes else "exact",
        num_probes=spectrum.num_probes,
        num_steps=len(found[0].nodes),
        converged=complete,
        cost=cost,
    )


def _grid(low: float, high: float, width: float) -> np.ndarray:
    grid = np.linspace(low - 5 * width, high + 5 * width, _GRID_POINTS)
    # a grid too coarse for the smoothing would miss the peaks: as fine as three points a width, within reason
    if grid[1] - grid[0] > width / 3:
        grid = np.linspace(low - 5 * width, high + 5 * width, min(int(3 * (high - low + 10 * width) / width), 20_000))
    return grid


def _kernel(nodes: np.ndarray, grid: np.ndarray, width: float) -> np.ndarray:
    """N(t; theta, width^2), shape (len(grid), len(nodes))."""
    return np.exp(-(((grid[:, None] - nodes) / width) ** 2) / 2) / (width * np.sqrt(2 * np.pi))
