"""The versioned report. Its JSON Schema, `schema.json` beside this file, is what other programs may rely on.

A number that is missing, or was not finite, is null, and `unavailable` of the same object says why.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

SCHEMA_VERSION: Literal["1.0"] = "1.0"
Status = Literal["complete", "partial", "not_converged"]


class Record(BaseModel):
    """An object of the report; numbers that are not finite become null with a reason."""

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="null")

    unavailable: dict[str, str] = Field(default_factory=dict, description="why a field is null, by its name")

    @model_validator(mode="before")
    @classmethod
    def _finite(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        reasons = dict(values.get("unavailable") or {})
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


class Cost(Record):
    """What an analysis cost. A product with the whole operator counts one, a pass over all samples likewise."""

    num_hvps: float = Field(description="products with the whole operator, all of them")
    solver_hvps: float = Field(description="those of the solver")
    check_hvps: float = Field(description="those of the closing check")
    data_passes: float = Field(description="passes over all samples, fractions allowed")
    seconds: float = Field(description="wall time of the analysis")
    peak_bytes: int = Field(description="most memory in use: tensors on a CUDA device, the whole process on the host")


class Eigenvalue(Record):
    """One eigenvalue with its errors, each told apart."""

    value: float
    error_bound: float = Field(description="estimate of the distance to the nearest eigenvalue, never below the noise")
    bound_kind: Literal["linear", "quadratic", "noise"] = Field(
        description="linear: the residual norm; quadratic: residual^2/gap, which supposes that no unseen eigenvalue "
        "lies in the gap; noise: the arithmetic's noise floor times the value"
    )
    residual_norm: float = Field(description="||A y - value y||, never below the noise floor times |value|")
    relative_residual: float | None
    vector_error: float | None = Field(description="estimated sine of the eigenvector's angle, residual/gap")
    data_stderr: float | None = Field(description="standard error over the data, from the spread of its batches")
    converged: bool


class LayerEigenvalue(Record):
    """The leading eigenvalue of one layer's diagonal block."""

    value: float
    error_bound: float
    bound_kind: Literal["linear", "quadratic", "noise"]
    num_params: int
    num_hvps: float = Field(description="products with the layer's block")
    converged: bool


class Stability(Record):
    """The largest eigenvalue against a learning rate: gradient descent on the quadratic model is stable below 2."""

    lr: float
    sharpness_times_lr: float
    error: float
    threshold: float = 2.0


class Eigs(Record):
    """Extreme eigenvalues."""

    kind: Literal["eigs"] = "eigs"
    operator: str
    which: Literal["la", "sa", "lm", "be"]
    method: Literal["lanczos", "power"]
    rtol: float
    converged: bool
    eigenvalues: list[Eigenvalue]
    check_discrepancy: float | None = Field(description="what the closing product found beyond the solver's residuals")
    num_missed: int | None = Field(description="pairs that the full check found beyond the first search's")
    stability: Stability | None = None
    vectors_file: str | None = None
    per_layer: dict[str, LayerEigenvalue] | None = Field(default=None, description="by the module's name")
    cost: Cost


class BlockTrace(Record):
    """The trace of a diagonal block: a parameter's or a layer's."""

    value: float
    stderr: float | None
    num_params: int


class Trace(Record):
    """The trace with its confidence interval."""

    kind: Literal["trace"] = "trace"
    operator: str
    method: Literal["hutchinson", "deflated", "hutch++", "xtrace", "exact"]
    method_reason: str = Field(description="why this method")
    rank: int = Field(description="vectors of the space whose part is known exactly")
    rtol: float
    converged: bool
    value: float
    stderr: float | None
    ci95: tuple[float, float] | None = Field(
        description="95 % interval over the probes, valid though the run stopped itself"
    )
    num_passes: int = Field(description="probes of each group; for exact the diagonal entries, for xtrace the probes")
    num_terms: int = Field(description="groups of samples with a probe of their own in each pass")
    per_parameter: dict[str, BlockTrace] | None = None
    per_layer: dict[str, BlockTrace] | None = Field(default=None, description="by the module's name")
    cost: Cost


class Outlier(Record):
    """An eigenvalue that was found beforehand and is placed exactly."""

    value: float
    error_bound: float


class Share(Record):
    """A share of all eigenvalues."""

    value: float
    low: float = Field(description="what the quadrature's nodes leave possible at least")
    high: float = Field(description="at most")
    stderr: float | None = Field(description="over the probes")


class Density(Record):
    """The spectral density by stochastic Lanczos quadrature."""

    kind: Literal["density"] = "density"
    operator: str
    converged: bool
    grid: list[float] = Field(description="eigenvalues, ascending")
    density: list[float] = Field(description="smoothed density at the grid, mean over probes; its integral is 1")
    density_stderr: list[float] | None
    cumulative: list[float] = Field(description="share of the eigenvalues below each point of the grid")
    cumulative_low: list[float] = Field(description="what the quadrature's nodes leave possible at least")
    cumulative_high: list[float] = Field(description="at most")
    cumulative_stderr: list[float] | None
    nodes: list[list[float]] = Field(description="quadrature nodes of each probe, in the complement of the outliers")
    weights: list[list[float]] = Field(description="their weights, adding up to 1 a probe")
    outliers: list[Outlier]
    width: float = Field(description="standard deviation of the smoothing")
    below_zero: Share = Field(description="share of the eigenvalues below zero by more than the noise floor")
    near_zero: Share = Field(description="share of the eigenvalues within `near` of zero")
    below_near: Share = Field(description="share of the eigenvalues below -near")
    near: float
    trace: float = Field(description="the trace that the quadrature implies")
    trace_stderr: float | None
    trace_by_probes: float | None = Field(description="the trace by an estimate of its own, to compare with")
    trace_by_probes_ci95: tuple[float, float] | None
    num_probes: int
    num_steps: int
    num_dims: int = Field(description="P: one eigenvalue is a share of 1/P")
    cost: Cost


class EntriesSummary(Record):
    """The distribution of a vector's entries."""

    mean: float
    min: float
    max: float
    negative: float = Field(description="share of entries below zero")
    num: int


class Diag(Record):
    """The diagonal; its entries stand in the file."""

    kind: Literal["diag"] = "diag"
    operator: str
    method: Literal["hutchinson", "exact"]
    method_reason: str
    rtol: float
    converged: bool
    file: str | None = Field(description="safetensors: entries by parameter name, their errors as stderr/NAME")
    sum: float
    sum_stderr: float | None
    relative_error: float | None = Field(description="norm of all standard errors over the diagonal's norm")
    summary: EntriesSummary
    per_parameter: dict[str, EntriesSummary]
    num_passes: int
    num_terms: int
    cost: Cost


class Summary(Record):
    """A distribution over examples."""

    mean: float
    std: float
    min: float
    median: float
    p95: float
    max: float


class TopExample(Record):
    """One of the largest examples."""

    index: int = Field(description="row in the data, from 0")
    frobenius: float | None
    spectral: float | None


class ClassNorms(Record):
    """The norms of the examples of one class."""

    num_examples: int
    frobenius_mean: float | None
    frobenius_max: float | None
    spectral_mean: float | None
    spectral_max: float | None


class JacNorm(Record):
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
    spectral_max_error: float | None = Field(description="largest estimated error of an example")
    linf_lower: Summary | None = Field(
        default=None, description="bounds from below on max ||J v||_2 over |v_j| <= 1, each reached by some v"
    )
    linf_upper: Summary | None = Field(default=None, description="bounds from above on the same")
    per_class: dict[str, ClassNorms] | None = Field(default=None, description="by the target's class index")
    directions_file: str | None = None
    top: list[TopExample]
    exact: bool = Field(description="all of every Jacobian was computed; rounding remains (noise_floor)")
    top_exact: bool
    per_example_file: str | None = None
    cost: Cost


class Check(Record):
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


class Verify(Record):
    """The same problem by several tools."""

    kind: Literal["verify"] = "verify"
    operator: str
    converged: bool
    ways: list[Way]
    verdict: str
    cost: Cost


Analysis = Annotated[Eigs | Trace | Density | Diag | JacNorm | Check | Verify, Field(discriminator="kind")]


class PreflightChecks(Record):
    """What was checked and repaired before the run."""

    num_samples: int
    symmetry: float | None
    finite_difference: float | None
    noise_floor: float | None = Field(description="relative distance of the working dtype's product from float64's")
    repairs: list[str]


class ProblemSummary(Record):
    """What was measured."""

    model: str
    num_params: int
    num_trainable: int = Field(description="parameters that take part")
    num_samples: int
    weight: float | None = Field(description="what the sum of the losses is divided by: samples, tokens or elements")
    loss: str | None
    reduction: str | None
    loss_value: float | None
    grad_norm: float | None
    preflight: PreflightChecks


class Warning(Record):
    """Something a reader of the numbers should know."""

    code: str
    message: str


class Provenance(Record):
    """Where the numbers come from."""

    tool_version: str
    argv: list[str]
    config: dict[str, Any]
    config_sources: dict[str, str]
    python: str
    torch: str
    cuda: str | None
    driver: str | None
    device: str
    device_name: str
    num_threads: int
    dtype: str
    tf32: bool
    ad_mode: str
    batch_size: int | None
    attention_backend: str
    seed: int
    parameters_include: list[str]
    parameters_exclude: list[str]
    checkpoint_sha256: str | None
    data_fingerprint: str
    git_commit: str | None
    git_dirty: bool | None
    host: str
    slurm_job_id: str | None
    started: str
    ended: str


class Report(Record):
    """A whole run."""

    schema_version: Literal["1.0"] = SCHEMA_VERSION
    status: Status
    problem: ProblemSummary
    analyses: list[Analysis]
    warnings: list[Warning]
    provenance: Provenance


class Plan(Record):
    """What a run would do and cost (`--dry-run`); nothing was analysed."""

    schema_version: Literal["1.0"] = SCHEMA_VERSION
    status: Literal["dry_run"] = "dry_run"
    kind: str
    model: str
    num_params: int
    num_trainable: int
    num_samples: int
    device: str
    dtype: str
    batch_size: int
    ad_mode: str
    expected_products: float = Field(description="a typical number; the run stops by its tolerance")
    seconds_per_product: float = Field(description="measured on one batch and scaled to the data")
    expected_seconds: float
    graph_bytes: int = Field(description="graphs that are kept")
    vector_bytes: int = Field(description="vectors that the solver holds")
    memory_budget: int
    notes: list[str]


class TensorEntry(Record):
    """One tensor of a file."""

    name: str
    shape: list[int]
    dtype: str


class Inspection(Record):
    """What a file is and holds; nothing in it was executed."""

    schema_version: Literal["1.0"] = SCHEMA_VERSION
    path: str
    format: str
    description: str
    safe: bool = Field(description="reading it executes nothing")
    size_bytes: int
    role: Literal["checkpoint", "data", "unknown"]
    weights_under: str | None = Field(
        description="key of a training checkpoint that holds the weights; empty: at the top"
    )
    other_keys: list[str] = Field(description="what else a training checkpoint holds")
    num_params: int | None = Field(description="numbers in the weights' floating tensors, buffers included")
    tensors: list[TensorEntry]
    would_import: list[str] = Field(description="what loading it without protection would import")
    next_command: str
