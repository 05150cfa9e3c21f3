"""The record of the comparison with other tools: numbers, each with its error."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from curvtool.report.record import AnalysisRecord, Cost, Record


class Way(Record):
    """The same numbers by one tool."""

    tool: str
    eigenvalues: list[float]
    eigenvalue_errors: list[float]
    trace: float
    trace_error: float | None
    num_hvps: float
    seconds: float
    agrees: bool | None = Field(description="with the first one, within the errors")
    notes: list[str]


class Verify(AnalysisRecord):
    """The same problem by several tools."""

    kind: Literal["verify"] = "verify"
    operator: str
    converged: bool
    ways: list[Way]
    verdict: str
    contradicted: bool = Field(
        default=False, description="the dense matrix disagrees with ours; without it any other tool does"
    )
    cost: Cost


RECORD = Verify
