"""What every object of the report shares: a number that is missing, or not finite, is null, and says why."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

_OWN = {"kind", "unavailable"}  # never a result's


def _in_order(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] > ends[1]:
        raise ValueError(f"an interval from {ends[0]:g} to {ends[1]:g}")
    return ends


Interval = Annotated[tuple[float, float], AfterValidator(_in_order)]


class Record(BaseModel):
    """An object of the report; numbers that are not finite become null with a reason."""

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="null")

    unavailable: dict[str, str] = Field(default_factory=dict, description="why a field is null, by its name")

    @classmethod
    def of(cls, *sources: Any, **own: Any) -> Self:
        """The record of results: a field that `own` does not name is the first source's that has one of its name.

        What is in a result and in the record under one name is copied by this rule alone, so that a new number takes
        one line in each.

        Args:
            sources: results, settings: objects with attributes.
            own: fields that differ from theirs, or that none has.
        """
        names = [name for name in cls.model_fields if name not in own and name not in _OWN]
        found = {name: getattr(source, name) for name in names for source in sources[::-1] if hasattr(source, name)}
        return cls(**found, **own)

    @model_validator(mode="before")
    @classmethod
    def _finite(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        given = values.get("unavailable")
        if given is not None and not isinstance(given, dict):
            return values  # which the field's own check refuses
        reasons = dict(given or {})
        for name, value in values.items():
            if isinstance(value, float) and not math.isfinite(value):
                values = {**values, name: None}
                reasons.setdefault(name, f"the value is {value}")
        return {**values, "unavailable": reasons}

    @model_validator(mode="after")
    def _reasons_for_nulls(self) -> Self:
        for name in self.unavailable:
            if name not in type(self).model_fields:
                raise ValueError(f"a reason for {name!r}, which is no field")
        return self


DEGREES = "of the standard error (Satterthwaite); null where it has none or every entry was computed"
ARITHMETIC = "what rounding may add on either side, beside the probes' error"


class Cost(Record):
    """What an analysis cost. A product with the whole operator counts one, a pass over all samples likewise."""

    num_hvps: float = Field(description="products with the whole operator, all of them")
    solver_hvps: float = Field(description="those of the solver")
    check_hvps: float = Field(description="those of the closing check")
    data_passes: float = Field(description="passes over all samples, fractions allowed")
    seconds: float = Field(description="wall time of the analysis")
    peak_bytes: int = Field(description="most memory in use: tensors on a CUDA device, the whole process on the host")


class AnalysisRecord(Record):
    """What one analysis found; every kind has a subclass.

    Attributes:
        kind: its name, a Literal in the subclass.
        converged: whether it reached what was asked for.
        cost: products and time.
    """

    if TYPE_CHECKING:  # declared by each kind, in its own order of fields
        kind: str
        converged: bool
        cost: Cost
