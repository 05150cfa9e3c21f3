"""A share of all eigenvalues, with its interval."""

from __future__ import annotations

from pydantic import Field

from curvtool.report.record import Record


class Share(Record):
    """A share of all eigenvalues."""

    value: float
    low: float = Field(description="lower end of the 95 % interval for the matrix: probes, steps and rounding together")
    high: float = Field(description="upper end")
    least: float = Field(description="what the quadrature's nodes leave possible at least, mean over these probes")
    most: float = Field(description="at most")
    stderr: float = Field(description="over the probes, by their law at this value; 0 for exact")

    @property
    def is_known(self) -> bool:
        """Whether its interval is narrower than a factor of two, so that the value may be quoted."""
        return self.low == self.high or self.high < 2 * self.low
