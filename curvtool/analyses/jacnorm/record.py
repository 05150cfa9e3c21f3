"""The record of the norms of Jacobians: numbers, each with its error."""

from __future__ import annotations

from base64 import b64decode
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from curvtool.report.record import AnalysisRecord, Cost, Interval, Record


class Histogram(Record):
    """How many examples lie between successive edges."""

    edges: list[float] = Field(description="ascending, one more than counts")
    counts: list[int] = Field(description="the last bin holds its right edge too")


class Summary(Record):
    """A distribution over examples.

    Of estimates, it is that of the norms: what probes add to the spread is taken out, and `max` is the largest of those
    computed from all rows.
    """

    mean: float
    std: float
    min: float
    median: float
    p95: float
    max: float
    bounds: dict[str, Interval] | None = Field(
        default=None,
        description="95 % intervals of the numbers above, by their names, for these examples: probes, solver, rounding",
    )
    mean_stderr_examples: float | None = Field(
        default=None, description="standard error of the mean over the examples: what another sample would change"
    )
    histogram: Histogram | None = None


_LARGEST_IMAGE = 2**20  # pixels
_LONGEST_IMAGE = 2**23  # letters


def _checked(image: str | None) -> str | None:
    """A small PNG in base64: a report may come from anywhere, and a page or a picture shows what it holds."""
    if image is None:
        return None
    if len(image) > _LONGEST_IMAGE:
        raise ValueError("an image that is too large")
    head = b64decode(image[:64], validate=True)  # which raises a ValueError too
    width, height = int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
    if head[:8] != b"\x89PNG\r\n\x1a\n" or not 0 < width * height <= _LARGEST_IMAGE:
        raise ValueError("no small PNG image")
    return image


Image = Annotated[str | None, AfterValidator(_checked)]


class TopExample(Record):
    """One of the largest examples."""

    index: int = Field(description="row in the data, from 0")
    frobenius: float | None
    spectral: float | None
    frobenius_interval: Interval | None = Field(default=None, description="95 %: probes and rounding")
    spectral_interval: Interval | None = Field(default=None, description="solver and rounding")
    image: Image = Field(default=None, description="the input, where it is an image: PNG in base64 (--directions)")
    direction: Image = Field(
        default=None, description="its leading singular direction likewise: red where more moves the outputs, blue less"
    )


class ClassNorms(Record):
    """The norms of the examples of one class."""

    num_examples: int
    frobenius_mean: float | None
    frobenius_max: float | None
    spectral_mean: float | None
    spectral_max: float | None
    bounds: dict[str, Interval] = Field(
        default_factory=dict, description="95 % intervals of the numbers above, by their names"
    )


class JacNorm(AnalysisRecord):
    """Norms of the input-output Jacobian, an example at a time."""

    kind: Literal["jacnorm"] = "jacnorm"
    operator: Literal["input-jacobian"] = "input-jacobian"
    converged: bool
    num_examples: int
    output_dim: int
    input_dim: int
    frobenius: Summary | None
    spectral: Summary | None
    frobenius_max_stderr: float | None = Field(description="largest standard error of an example over its probes")
    frobenius_max_degrees: float | None = Field(
        default=None, description="degrees of freedom of that standard error (chi-square, of the squared norm)"
    )
    spectral_max_error: float | None = Field(
        description="largest error of an example: how far its norm may lie above the value, with 99 %"
    )
    linf_lower: Summary | None = Field(
        default=None, description="bounds from below on max ||J v||_2 over |v_j| <= 1, each reached by some v"
    )
    linf_upper: Summary | None = Field(default=None, description="bounds from above on the same")
    per_class: dict[str, ClassNorms] | None = Field(default=None, description="by the target's class index")
    directions_file: str | None = None
    top: list[TopExample]
    exact: bool = Field(description="all of every Jacobian was computed; rounding remains (noise_floor)")
    top_exact: bool
    top_rivals: int = Field(
        default=0, description="examples beside `top` that may be larger than the smallest listed one, at 95 %"
    )
    num_recomputed: int = Field(default=0, description="examples recomputed from all rows after they were estimated")
    by_embeddings: bool = Field(
        default=False, description="the inputs are indices: derivatives are by their embeddings"
    )
    per_example_file: str | None = None
    cost: Cost


RECORD = JacNorm
