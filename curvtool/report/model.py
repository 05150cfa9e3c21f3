"""The versioned report. Its JSON Schema, `schema.json` beside this file, is what other programs may rely on."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from curvtool.report.parts import Analysis
from curvtool.report.record import AnalysisRecord, Cost, Record
from curvtool.report.share import Share
from curvtool.vocabulary import BatchNorm, Start

__all__ = [
    "SCHEMA_VERSION",
    "Analysis",
    "AnalysisRecord",
    "BytesOnRank",
    "Cost",
    "DeviceMemory",
    "Doctor",
    "Inspection",
    "OperationVerdict",
    "Plan",
    "PreflightChecks",
    "ProblemSummary",
    "Provenance",
    "RanksForecast",
    "Record",
    "Report",
    "SecondsOnRanks",
    "Share",
    "Status",
    "TensorEntry",
    "TrackRow",
    "Warning",
]

SCHEMA_VERSION: Literal["1.0"] = "1.0"
Status = Literal["complete", "partial", "not_converged"]


class PreflightChecks(Record):
    """What was checked and repaired before the run."""

    num_samples: int
    symmetry: float | None
    finite_difference: float | None
    noise_floor: float | None = Field(
        description="relative distance of a product from float64's; in float64 from that under random rounding"
    )
    gradient_error: float | None = Field(
        default=None, description="what rounding may do to grad_norm, absolute; null in float64 and where not known"
    )
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
    batch_norm: BatchNorm | None = Field(
        default=None, description="BatchNorm by running statistics, or by those of each batch; null without BatchNorm"
    )
    statistics_batch: int | None = Field(
        default=None, description="consecutive samples of a batch whose statistics are taken: part of the quantity"
    )
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
    operations: str = Field(
        default="torch", description="torch's own, or rewritten for their second derivative, perhaps with channels last"
    )
    groups_at_once: int = Field(
        default=1, description="groups of samples with a probe each that were run in one go (trace, diagonal)"
    )
    vectors_at_once: int = Field(
        default=1, description="vectors that were multiplied by the same samples in one go (density, whole matrices)"
    )
    timings: dict[str, float] = Field(
        default_factory=dict,
        description="seconds of a product on a few samples by the way it is run, where ways were compared",
    )
    left_out: dict[str, str] = Field(
        default_factory=dict, description="ways that failed or gave another product, with the reason"
    )
    remembered: list[str] = Field(
        default_factory=list, description="what an earlier run of the same had measured, and this one did not again"
    )
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


class SecondsOnRanks(Record):
    """Of one product on several ranks."""

    compute: float = Field(description="differentiating, on the rank with most samples")
    traffic: float = Field(description="the vector gathered and the product scattered, at the bandwidth")
    latency: float = Field(description="what collectives take however little they carry")
    vectors: float = Field(description="orthogonalisation against the basis")
    total: float


class BytesOnRank(Record):
    """On one of several ranks, at the peak of a product."""

    parameters: int
    working: int = Field(description="vectors that a product holds")
    basis: int = Field(description="its pieces of the solver's vectors")
    graphs: int = Field(description="kept graphs with their gradients, or the graph of one batch")
    total: int


class RanksForecast(Record):
    """One product on several ranks, computed from what was measured on one device."""

    ranks: int
    samples_per_rank: int = Field(description="of the rank that has most")
    bandwidth: float = Field(description="bytes/s that a rank sends while it receives as many; supposed")
    latency: float = Field(description="seconds a collective; supposed")
    expected_products: float = Field(description="a typical number, that of the closing check included")
    gathered_bytes: int = Field(description="a product, whole vectors")
    scattered_bytes: int = Field(description="likewise")
    seconds_per_product: SecondsOnRanks
    expected_seconds: float
    bytes_per_rank: BytesOnRank


class TrackRow(Record):
    """One checkpoint of a training run (`track`)."""

    schema_version: Literal["1.0"] = SCHEMA_VERSION
    run: str = Field(description="the folder that the checkpoint lies in")
    checkpoint: str
    step: int | None = Field(description="the last number in the file's name")
    settings: str = Field(description="a checksum of all that the numbers depend on but the checkpoint")
    start: Start = Field(description="warm: from the vectors of the checkpoint before")
    status: Status
    problem: ProblemSummary
    analyses: list[Analysis]
    warnings: list[Warning]
    checkpoint_sha256: str
    provenance: Provenance | None = Field(default=None, description="null in rows of earlier versions")
    ended: str


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
    on_ranks: RanksForecast | None = Field(default=None, description="with --ranks, or on several ranks")


class OperationVerdict(Record):
    """One of torch's operations: whether its second derivative is right in the installed version."""

    name: str
    reverse: Literal["right", "wrong", "refused", "not checked"] = Field(description="reverse mode twice")
    forward: Literal["right", "wrong", "refused", "not checked"] = Field(description="forward over reverse")
    error: float | None = Field(description="largest relative error of a wrong product")


class DeviceMemory(Record):
    """Of one device."""

    budget: int = Field(description="bytes for graphs and vectors, unless --memory-budget says otherwise")
    allocator: str = Field(description="whose, and its options")


class Doctor(Record):
    """This installation: versions, devices, a product with a known answer, and operations where they were swept."""

    schema_version: Literal["1.0"] = SCHEMA_VERSION
    versions: dict[str, str | None] = Field(description="of packages by name; null where one is not installed")
    devices: list[str]
    memory: dict[str, DeviceMemory] = Field(description="by device")
    attention: dict[str, bool] = Field(description="which attention backends torch has switched on")
    product_error: float = Field(
        description="of a Hessian product with a known answer, relative, in float64; the worst device's"
    )
    problems: list[str] = Field(description="what is wrong here, with the remedy")
    operations: list[OperationVerdict] | None


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
    notes: list[str] = Field(default=[], description="what else it says of itself: architecture, base model")
    next_command: str
