from typing import Literal

from curvtool.report.record import AnalysisRecord, Cost


class Toy(AnalysisRecord):
    """The largest entry of the gradient."""

    kind: Literal["toy"] = "toy"
    operator: str
    converged: bool
    largest: float
    error: float
    cost: Cost


RECORD = Toy
