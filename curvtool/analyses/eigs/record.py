"""The record of extreme eigenvalues: numbers, each with its error."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from curvtool.report.record import AnalysisRecord, Cost, Record
from curvtool.vocabulary import EigenvalueMethod, Storage, Unmet, Which

_UNMET = (
    "why it did not converge; rounding: no more products would lower its error; rank: its error is within the "
    "tolerance, but another eigenvalue may take its place; products: too few were made; null where it converged, and "
    "in reports of earlier versions"
)


class PopulationValue(Record):
    """An estimate for the population that the data are a random sample of."""

    value: float = Field(description="the sample's value less its bias")
    low: float
    high: float = Field(description="low to high: 95 % interval, Student's t over the parts, the solver's error added")
    degrees: int = Field(description="degrees of freedom: parts of the data less one")


class Eigenvalue(Record):
    """One eigenvalue with its errors, each told apart."""

    value: float = Field(description="of the matrix of these data; error_bound is its error")
    error_bound: float = Field(
        description="estimate of the distance to the eigenvalue of that rank, never below the noise"
    )
    bound_kind: Literal["linear", "quadratic", "noise"] = Field(
        description="linear: the residual norm, up to 13 times it within a tenth of the tolerance for a neighbour that "
        "may be hidden; quadratic, where the tolerance is not met: residual^2/gap, which supposes that no unseen "
        "eigenvalue lies in the gap, not below a quarter of the residual; noise: the arithmetic's error, relative to "
        "the largest magnitude of the matrix"
    )
    residual_norm: float = Field(description="||A y - value y||, never below the arithmetic's error")
    relative_residual: float | None
    vector_error: float | None = Field(description="estimated sine of the eigenvector's angle, residual/gap")
    data_stderr: float | None = Field(
        description="standard error over the data: what another sample of as many data would change, from the spread "
        "of parts of the data that are drawn at random"
    )
    data_bias: float | None = Field(
        default=None, description="how far such a sample's eigenvalue lies above the population's on average, estimated"
    )
    population: PopulationValue | None = Field(
        default=None, description="the eigenvalue of the population that the data are a sample of"
    )
    converged: bool
    unmet: Unmet | None = Field(default=None, description=_UNMET)


class Certificate(Record):
    """Beyond what no eigenvalue was missed: by the random starts, with a probability."""

    above: float | None = Field(description="above it every eigenvalue is listed, to within its error or the tolerance")
    below: float | None = Field(description="below it every eigenvalue is listed, likewise")
    probability: float = Field(description="over the random starts, that this is so")
    check_hvps: float = Field(description="the products it took, beside those of the search")


class LayerEigenvalue(Record):
    """The leading eigenvalue of one layer's diagonal block."""

    value: float
    error_bound: float
    bound_kind: Literal["linear", "quadratic", "noise"]
    num_params: int
    num_hvps: float = Field(description="products with the layer's block")
    certificate: Certificate | None = Field(default=None, description="of the block, as of the whole matrix")
    converged: bool
    unmet: Unmet | None = Field(default=None, description=_UNMET)


class Stability(Record):
    """The largest eigenvalue against a learning rate: gradient descent on the quadratic model is stable below 2."""

    lr: float
    sharpness_times_lr: float
    error: float
    threshold: float = 2.0


class Eigs(AnalysisRecord):
    """Extreme eigenvalues."""

    kind: Literal["eigs"] = "eigs"
    operator: str
    which: Which
    method: EigenvalueMethod
    basis: Storage = Field(default="device", description="where Lanczos kept its vectors")
    rtol: float
    atol: float = 0.0
    converged: bool
    eigenvalues: list[Eigenvalue]
    check_discrepancy: float | None = Field(description="what the closing product found beyond the solver's residuals")
    num_missed: int | None = Field(description="pairs that the full check found beyond the first search's")
    certificate: Certificate | None = Field(
        default=None, description="beyond what no eigenvalue was missed, with 99.9 % probability"
    )
    stability: Stability | None = None
    vectors_file: str | None = None
    per_layer: dict[str, LayerEigenvalue] | None = Field(default=None, description="by the module's name")
    history: list[tuple[float, float, float | None]] = Field(
        default_factory=list,
        description="products made, the first eigenvalue, its estimated error, as the search went on",
    )
    cost: Cost


RECORD = Eigs
