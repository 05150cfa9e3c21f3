"""The record of the spectral density: numbers, each with its error."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from curvtool.report.record import AnalysisRecord, Cost, Interval, Record
from curvtool.report.share import Share
from curvtool.vocabulary import DensityMethod


class Outlier(Record):
    """An eigenvalue that was found beforehand and is placed exactly."""

    value: float
    error_bound: float


class Density(AnalysisRecord):
    """The spectral density by stochastic Lanczos quadrature."""

    kind: Literal["density"] = "density"
    operator: str
    converged: bool
    grid: list[float] = Field(description="eigenvalues, ascending")
    density: list[float] = Field(description="smoothed density at the grid, mean over probes; its integral is 1")
    density_low: list[float] = Field(description="lower end of its 95 % interval over the probes, pointwise")
    density_high: list[float] = Field(description="upper end")
    density_stderr: list[float] = Field(description="its standard error over the probes")
    cumulative: list[float] = Field(description="share of the eigenvalues below each point of the grid")
    cumulative_low: list[float] = Field(
        description="lower end of its 95 % interval for the matrix, pointwise: probes, steps and rounding together"
    )
    cumulative_high: list[float] = Field(description="upper end")
    nodes: list[list[float]] = Field(description="quadrature nodes of each probe, in the complement of the outliers")
    weights: list[list[float]] = Field(description="their weights, adding up to 1 a probe")
    outliers: list[Outlier]
    width: float = Field(description="standard deviation of the smoothing")
    below_zero: Share = Field(description="share of the eigenvalues below -threshold: below zero by more than rounding")
    threshold: float = Field(description="twice what rounding moves an eigenvalue, by the noise floor")
    near_zero: Share = Field(description="share of the eigenvalues within `near` of zero")
    below_near: Share = Field(description="share of the eigenvalues below -near")
    near: float
    trace: float = Field(description="the trace that the quadrature implies")
    trace_stderr: float = Field(description="over the probes; 0 for exact")
    trace_degrees: float | None = Field(description="degrees of freedom of trace_stderr")
    trace_ci95: Interval = Field(description="95 % interval: probes and rounding together")
    trace_by_probes: float | None = Field(description="the trace by an estimate of its own, to compare with")
    trace_by_probes_ci95: Interval | None
    method: DensityMethod = Field(description="exact: every eigenvalue was computed; rounding remains")
    num_probes: int = Field(description="random vectors; 0 for exact")
    num_steps: int = Field(description="nodes of each")
    num_dims: int = Field(description="P: one eigenvalue is a share of 1/P")
    cost: Cost


RECORD = Density
