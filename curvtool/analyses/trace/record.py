"""The record of the trace: numbers, each with its error."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from curvtool.report.record import ARITHMETIC, DEGREES, AnalysisRecord, Cost, Interval, Record
from curvtool.vocabulary import TraceMethod


class BlockTrace(Record):
    """The trace of a diagonal block: a parameter's or a layer's."""

    value: float
    stderr: float | None
    degrees_of_freedom: float | None = Field(default=None, description=DEGREES)
    arithmetic_error: float | None = Field(default=None, description=ARITHMETIC)
    num_params: int


class Trace(AnalysisRecord):
    """The trace with its confidence interval."""

    kind: Literal["trace"] = "trace"
    operator: str
    method: TraceMethod
    method_reason: str = Field(description="why this method")
    rank: int = Field(description="vectors of the space whose part is known exactly")
    rtol: float
    converged: bool
    value: float
    stderr: float | None
    degrees_of_freedom: float | None = Field(default=None, description=DEGREES)
    arithmetic_error: float | None = Field(default=None, description=ARITHMETIC)
    ci95: Interval | None = Field(description="95 % interval over the probes, valid though the run stopped itself")
    num_passes: int = Field(description="probes of each group; for exact the diagonal entries, for xtrace the probes")
    num_terms: int = Field(description="groups of samples with a probe of their own in each pass")
    per_parameter: dict[str, BlockTrace] | None = None
    per_layer: dict[str, BlockTrace] | None = Field(default=None, description="by the module's name")
    history: list[tuple[float, float, float | None]] = Field(
        default_factory=list, description="passes made, the estimate, its standard error, as the last probes went on"
    )
    cost: Cost


RECORD = Trace
