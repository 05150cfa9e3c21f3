"""The records of the analyses: numbers, each with its error."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from curvtool.report.record import Cost, Record

_DEGREES = "of the standard error (Satterthwaite); null where it has none or every entry was computed"
Unmet = Literal["rounding", "rank", "products"]
_UNMET = (
    "why it did not converge; rounding: no more products would lower its error; rank: its error is within the "
    "tolerance, but another eigenvalue may take its place; products: too few were made; null where it converged, and "
    "in reports of earlier versions"
)
_ARITHMETIC = "what rounding may add on either side, beside the probes' error"


class PopulationValue(Record):
    """An estimate for the population that the data are a random sample of."""

    value: float = Field(description="the sample's value less its bias")
    low: float
    high: float = Field(description="low to high: 95 % interval, Student's t over the parts, the solver's error added")
    degrees: int = Field(description="degrees of freedom: parts of the data less one")


class Eigenvalue(Record):
    """One eigenvalue with its errors, each told apart."""

    value: float = Field(description="of the matrix of these data; error_bound is its error")
    error_bound: float = Field(description="estimate of the distance to the nearest eigenvalue, never below the noise")
    bound_kind: Literal["linear", "quadratic", "noise"] = Field(
        description="linear: the residual norm; quadratic: residual^2/gap, which supposes that no unseen eigenvalue "
        "lies in the gap, not below a quarter of the residual; noise: the arithmetic's error, relative to the largest "
        "magnitude of the matrix"
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


class Eigs(Record):
    """Extreme eigenvalues."""

    kind: Literal["eigs"] = "eigs"
    operator: str
    which: Literal["la", "sa", "lm", "be"]
    method: Literal["lanczos", "power"]
    basis: Literal["device", "host", "bfloat16"] = Field(default="device", description="where Lanczos kept its vectors")
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


class BlockTrace(Record):
    """The trace of a diagonal block: a parameter's or a layer's."""

    value: float
    stderr: float | None
    degrees_of_freedom: float | None = Field(default=None, description=_DEGREES)
    arithmetic_error: float | None = Field(default=None, description=_ARITHMETIC)
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
    degrees_of_freedom: float | None = Field(default=None, description=_DEGREES)
    arithmetic_error: float | None = Field(default=None, description=_ARITHMETIC)
    ci95: tuple[float, float] | None = Field(
        description="95 % interval over the probes, valid though the run stopped itself"
    )
    num_passes: int = Field(description="probes of each group; for exact the diagonal entries, for xtrace the probes")
    num_terms: int = Field(description="groups of samples with a probe of their own in each pass")
    per_parameter: dict[str, BlockTrace] | None = None
    per_layer: dict[str, BlockTrace] | None = Field(default=None, description="by the module's name")
    history: list[tuple[float, float, float | None]] = Field(
        default_factory=list, description="passes made, the estimate, its standard error, as the last probes went on"
    )
    cost: Cost


class Outlier(Record):
    """An eigenvalue that was found beforehand and is placed exactly."""

    value: float
    error_bound: float


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


class Density(Record):
    """The spectral density by stochastic Lanczos quadrature."""

    kind: Literal["density"] = "density"
    operator: str
    converged: bool
    grid: list[float] = Field(description="eigenvalues, ascending")
    density: list[float] = Field(description="smoothed density at the grid, mean over probes; its integral is 1")
    density_low: list[float] = Field(description="lower end of its 95 % interval over the probes, pointwise")
    density_high: list[float] = Field(description="upper end")
    density_stderr: list[float] = Field(description="its standard error over the probes")
    cumulative: list[float] = Field(description="share of the eigenvalues below each point of the grid")
    cumulative_low: list[float] = Field(
        description="lower end of its 95 % interval for the matrix, pointwise: probes, steps and rounding together"
    )
    cumulative_high: list[float] = Field(description="upper end")
    nodes: list[list[float]] = Field(description="quadrature nodes of each probe, in the complement of the outliers")
    weights: list[list[float]] = Field(description="their weights, adding up to 1 a probe")
    outliers: list[Outlier]
    width: float = Field(description="standard deviation of the smoothing")
    below_zero: Share = Field(description="share of the eigenvalues below -threshold: below zero by more than rounding")
    threshold: float = Field(description="twice what rounding moves an eigenvalue, by the noise floor")
    near_zero: Share = Field(description="share of the eigenvalues within `near` of zero")
    below_near: Share = Field(description="share of the eigenvalues below -near")
    near: float
    trace: float = Field(description="the trace that the quadrature implies")
    trace_stderr: float = Field(description="over the probes; 0 for exact")
    trace_degrees: float | None = Field(description="degrees of freedom of trace_stderr")
    trace_ci95: tuple[float, float] = Field(description="95 % interval: probes and rounding together")
    trace_by_probes: float | None = Field(description="the trace by an estimate of its own, to compare with")
    trace_by_probes_ci95: tuple[float, float] | None
    method: Literal["probes", "exact"] = Field(description="exact: every eigenvalue was computed; rounding remains")
    num_probes: int = Field(description="random vectors; 0 for exact")
    num_steps: int = Field(description="nodes of each")
    num_dims: int = Field(description="P: one eigenvalue is a share of 1/P")
    cost: Cost


class EntriesSummary(Record):
    """The distribution of a vector's entries; by probes `min`, `max` and `negative` are those of the estimates, whose
    errors spread them."""

    mean: float
    mean_stderr: float | None = Field(default=None, description="of the mean over the probes, at most; 0 where exact")
    min: float
    max: float
    negative: float = Field(description="share of the numbers below zero; of estimates, noise is counted too")
    negative_interval: tuple[float, float] | None = Field(
        default=None, description="95 % interval of the share of the matrix's own entries below zero"
    )
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
    degrees_of_freedom: float | None = Field(default=None, description=_DEGREES)
    arithmetic_error: float | None = Field(default=None, description=_ARITHMETIC)
    relative_error: float | None = Field(description="norm of all standard errors over the diagonal's norm")
    summary: EntriesSummary
    per_parameter: dict[str, EntriesSummary]
    num_passes: int
    num_terms: int
    cost: Cost


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
    bounds: dict[str, tuple[float, float]] | None = Field(
        default=None,
        description="95 % intervals of the numbers above, by their names, for these examples: probes, solver, rounding",
    )
    mean_stderr_examples: float | None = Field(
        default=None, description="standard error of the mean over the examples: what another sample would change"
    )
    histogram: Histogram | None = None


class TopExample(Record):
    """One of the largest examples."""

    index: int = Field(description="row in the data, from 0")
    frobenius: float | None
    spectral: float | None
    frobenius_interval: tuple[float, float] | None = Field(default=None, description="95 %: probes and rounding")
    spectral_interval: tuple[float, float] | None = Field(default=None, description="solver and rounding")
    image: str | None = Field(default=None, description="the input, where it is an image: PNG in base64 (--directions)")
    direction: str | None = Field(
        default=None, description="its leading singular direction likewise: red where more moves the outputs, blue less"
    )


class ClassNorms(Record):
    """The norms of the examples of one class."""

    num_examples: int
    frobenius_mean: float | None
    frobenius_max: float | None
    spectral_mean: float | None
    spectral_max: float | None
    bounds: dict[str, tuple[float, float]] = Field(
        default_factory=dict, description="95 % intervals of the numbers above, by their names"
    )


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
    contradicted: bool = Field(
        default=False, description="the dense matrix disagrees with ours; without it any other tool does"
    )
    cost: Cost


Analysis = Annotated[Eigs | Trace | Density | Diag | JacNorm | Check | Verify, Field(discriminator="kind")]
