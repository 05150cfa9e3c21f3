"""The record of the diagonal: numbers, each with its error."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from curvtool.report.record import ARITHMETIC, DEGREES, AnalysisRecord, Cost, Interval, Record
from curvtool.vocabulary import DiagonalMethod


class EntriesSummary(Record):
    """The distribution of a vector's entries; by probes `min`, `max` and `negative` are those of the estimates, whose
    errors spread them."""

    mean: float
    mean_stderr: float | None = Field(default=None, description="of the mean over the probes, at most; 0 where exact")
    min: float
    max: float
    negative: float = Field(description="share of the numbers below zero; of estimates, noise is counted too")
    negative_interval: Interval | None = Field(
        default=None, description="95 % interval of the share of the matrix's own entries below zero"
    )
    num: int


class Diag(AnalysisRecord):
    """The diagonal; its entries stand in the file."""

    kind: Literal["diag"] = "diag"
    operator: str
    method: DiagonalMethod
    method_reason: str
    rtol: float
    converged: bool
    file: str | None = Field(description="safetensors: entries by parameter name, their errors as stderr/NAME")
    sum: float
    sum_stderr: float | None
    degrees_of_freedom: float | None = Field(default=None, description=DEGREES)
    arithmetic_error: float | None = Field(default=None, description=ARITHMETIC)
    relative_error: float | None = Field(description="norm of all standard errors over the diagonal's norm")
    summary: EntriesSummary
    per_parameter: dict[str, EntriesSummary]
    num_passes: int
    num_terms: int
    cost: Cost


RECORD = Diag
