"""The record of the preflight alone: numbers, each with its error."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from curvtool.report.record import AnalysisRecord, Cost


class Check(AnalysisRecord):
    """The preflight alone (its findings stand in the problem), and the ways to run a product."""

    kind: Literal["check"] = "check"
    operator: str
    converged: bool
    seconds_by_mode: dict[str, float] = Field(description="time of one product on the calibration's samples")
    rejected_modes: dict[str, str] = Field(description="ways that failed or were wrong, with the reason")
    calibration_samples: int
    graph_bytes_per_sample: int = Field(description="what a kept graph takes")
    batch_size: int
    cost: Cost


RECORD = Check
