"""Every setting of a run, declared once: its type, default, flag, help and place in the project file.

The command line expands these classes into options (`cli/options.py`); `resolve.py` fills them from flags, variables
and TOML. Nothing heavy is imported here, so that `--help` answers at once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from curvtool.errors import UsageError

Loadable = Literal["auto", "model", "ema"]
Dtype = Literal["float32", "float64", "bfloat16"]
Mode = Literal["auto", "kept", "fresh", "forward"]
Reduction = Literal["mean", "sum"]
OperatorName = Literal["hessian", "ggn", "fisher", "empirical-fisher"]
Which = Literal["la", "sa", "lm", "be"]
EigsMethod = Literal["lanczos", "power"]
DiagonalMethod = Literal["auto", "hutchinson", "exact"]
TraceMethod = Literal["auto", "hutchinson", "deflated", "hutch++", "xtrace", "exact"]
Check = Literal["fast", "full"]
Norm = Literal["both", "frobenius", "spectral"]


def setting(default: Any, help: str, *flags: str, minimum: float | None = None, metavar: str | None = None) -> Any:
    """A field with its help, its flags (`--name-with-dashes` if none), its least value and the word for its value."""
    metadata = {"help": help, "flags": flags, "minimum": minimum, "metavar": metavar}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Section:
    """A group of settings; checks choices and least values when it is made."""

    def __post_init__(self) -> None:
        hints = type_hints(type(self))
        for item in fields(self):
            value, flag = getattr(self, item.name), flags_of(item)[0]
            choices = choices_of(hints[item.name])
            if choices and value is not None and value not in choices:
                raise UsageError(
                    "CT001",
                    f"unknown value for {flag}",
                    expected=", ".join(map(str, choices)),
                    received=repr(value),
                    remedy=f"{flag} {choices[0]}",
                )
            minimum = item.metadata.get("minimum")
            if minimum is not None and value is not None and not value >= minimum:
                raise UsageError(
                    "CT001",
                    f"{flag} is too small",
                    expected=f"{minimum:g} or more",
                    received=str(value),
                    remedy=f"{flag} {minimum:g}",
                )


def check_safetensors(path: str | None, what: str, remedy: str) -> None:
    """Raises CT005 for a file that is to be written and has another suffix."""
    if path is not None and not path.endswith(".safetensors"):
        raise UsageError("CT005", f"no such format for {what}", expected=".safetensors", received=path, remedy=remedy)


@dataclass(frozen=True)
class ModelConfig(Section):
    """The checkpoint and the code that it belongs to."""

    checkpoint: str | None = setting(None, "Checkpoint file, or demo:digits.")
    factory: str | None = setting(
        None,
        "The model's code, package.module:callable; the working folder is importable.",
        metavar="MODULE:NAME",
    )
    factory_args: dict[str, Any] = setting(
        {},
        "Argument of the factory, name=value; the value is read as JSON, else as a string.",
        "-K",
        metavar="NAME=VALUE",
    )
    weights: Loadable = setting("auto", "Which weights of a training checkpoint.")
    trust: bool = setting(False, "Load a file that can run code: only if you trust whoever made it.")
    output_key: str | None = setting(None, "Entry of a dict or tuple output that is the prediction.", metavar="KEY")


@dataclass(frozen=True)
class DataConfig(Section):
    """The samples."""

    source: str | None = setting(
        None,
        "Data: .npz, .npy, a pair x.npy,y.npy, .safetensors, .pt, a folder of them, or package.module:callable.",
        "--data",
        metavar="SOURCE",
    )
    input_key: str | None = setting(None, "Name of the inputs in the data.", metavar="KEY")
    target_key: str | None = setting(None, "Name of the targets in the data.", metavar="KEY")
    num_samples: int | None = setting(None, "Use this many samples (the first, or drawn by --subset-seed).", minimum=1)
    subset_seed: int | None = setting(None, "Draw the samples by this seed instead of taking the first.", minimum=0)
    batch_size: str = setting("auto", "Samples a batch, or auto; changes speed and memory alone.", metavar="N|auto")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size != "auto" and not (str(self.batch_size).isdigit() and int(self.batch_size) > 0):
            raise UsageError(
                "CT001",
                "no such batch size",
                expected="auto, or a number from 1",
                received=str(self.batch_size),
                remedy="--batch-size auto",
            )


@dataclass(frozen=True)
class LossConfig(Section):
    """The loss."""

    name: str = setting(
        "cross-entropy",
        "cross-entropy, bce-with-logits, mse, or package.module:callable called as loss(output, target).",
        "--loss",
        metavar="NAME",
    )
    reduction: Reduction = setting("mean", "Divide the sum over all samples by the global weight, or by nothing.")
    ignore_index: int = setting(-100, "Class index that does not count (cross-entropy).")


@dataclass(frozen=True)
class ParamsConfig(Section):
    """Which parameters take part."""

    include: list[str] = setting(
        [], "Shell pattern of parameters that take part; repeat for several.", "--params", metavar="GLOB"
    )
    exclude: list[str] = setting([], "Shell pattern of parameters that do not.", metavar="GLOB")


@dataclass(frozen=True)
class ComputeConfig(Section):
    """Where and how to compute."""

    device: str = setting("auto", "auto, cpu, cuda or cuda:N.", metavar="DEVICE")
    dtype: Dtype | None = setting(None, "Precision; the weights' own by default, float32 for half-precision weights.")
    seed: int = setting(0, "Of every random draw; the same seed gives the same values.", minimum=0)
    memory_budget: str | None = setting(
        None,
        "For kept graphs and vectors together, as 8GiB; half of the free memory by default.",
        metavar="SIZE",
    )
    hvp: Mode = setting("auto", "How Hessian products are run; auto measures on your model.")
    tf32: bool = setting(False, "Allow TensorFloat-32 on CUDA: faster, and 13 bits less.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.memory_budget is not None:
            parse_bytes(self.memory_budget)


@dataclass(frozen=True)
class EigsConfig(Section):
    """Extreme eigenvalues of the Hessian."""

    kind = "eigs"
    k: int = setting(5, "How many eigenvalues (at each end for be).", "-k", "--num", minimum=1)
    which: Which | None = setting(
        None,
        "la largest, sa smallest, lm largest magnitude, be both ends; la by default, lm for power iteration.",
    )
    method: EigsMethod = setting("lanczos", "Lanczos, or deflated power iteration.")
    rtol: float = setting(1e-3, "Relative error of each eigenvalue to reach.", minimum=1e-15)
    max_passes: int = setting(300, "Products after which to stop unconverged.", minimum=1)
    operator: OperatorName = setting("hessian", "Which matrix; ggn: Gauss-Newton.")
    check: Check = setting("fast", "Closing check: full makes true residuals and looks for missed pairs.")
    per_layer: bool = setting(False, "The leading eigenvalue of every layer's own block too.")
    lr: float | None = setting(None, "Learning rate: print it times the largest eigenvalue, against 2.", minimum=0)
    vectors: str | None = setting(None, "Write the eigenvectors to this .safetensors file.", metavar="FILE")
    start: str | None = setting(None, "Start from the vectors of this .safetensors file.", metavar="FILE")
    deflate: str | None = setting(
        None, "Known eigenvectors (.safetensors) in whose complement to look.", metavar="FILE"
    )
    vector_rtol: float | None = setting(None, "Error of each eigenvector to reach too (sine of its angle).", minimum=0)
    block_size: int = setting(1, "Starting vectors of Lanczos: how often a multiple eigenvalue is seen.", minimum=1)
    max_basis: int | None = setting(None, "Most vectors that Lanczos holds; from the memory budget by default.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_safetensors(self.vectors, "eigenvectors", "--vectors eigenvectors.safetensors")


@dataclass(frozen=True)
class TraceConfig(Section):
    """Trace of the Hessian."""

    kind = "trace"
    rtol: float = setting(0.05, "Half-width of the 95 % interval over the estimate, to reach.", minimum=1e-15)
    max_passes: int = setting(1000, "Passes after which to stop with a wider interval.", minimum=2)
    probe_group: int | None = setting(None, "Samples that share a random probe; 8 to 32 by default.", minimum=1)
    method: TraceMethod = setting("auto", "By the variance of the first passes, and the report says why.")
    rank: int | None = setting(None, "Vectors of the space that deflated and hutch++ know exactly.", minimum=1)
    operator: OperatorName = setting("hessian", "Which matrix.")
    per_layer: bool = setting(False, "Every layer's and parameter's trace too, from the same probes.")


@dataclass(frozen=True)
class DensityConfig(Section):
    """Spectral density of the Hessian."""

    kind = "density"
    probes: int = setting(4, "Random vectors; the error band is over them.", minimum=1)
    steps: int = setting(50, "Lanczos steps, and quadrature nodes, a vector.", minimum=2)
    outliers: int = setting(5, "Eigenvalues largest in magnitude to find first and to place exactly.", minimum=0)
    deflate: str | None = setting(
        None, "Eigenvectors (.safetensors, of eigs --vectors) to place exactly instead.", metavar="FILE"
    )
    width: float | None = setting(
        None, "Standard deviation of the smoothing; a hundredth of the spectrum's length by default.", minimum=1e-300
    )
    near: float | None = setting(
        None, "What counts as near zero; a hundredth of the largest magnitude by default.", minimum=1e-300
    )
    operator: OperatorName = setting("hessian", "Which matrix.")


@dataclass(frozen=True)
class DiagConfig(Section):
    """Diagonal of the Hessian."""

    kind = "diag"
    out: str | None = setting(
        None, "Write the diagonal, and its standard errors, by parameter name (.safetensors).", metavar="FILE"
    )
    method: DiagonalMethod = setting("auto", "By probes, or exactly; the report says why.")
    rtol: float = setting(0.1, "Norm of all standard errors over the diagonal's norm, to reach.", minimum=1e-15)
    max_passes: int = setting(300, "Passes after which to stop with larger errors.", minimum=2)
    probe_group: int | None = setting(None, "Samples that share a random probe; 8 to 32 by default.", minimum=1)
    operator: OperatorName = setting("hessian", "Which matrix; for ggn and the Fishers often exact.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_safetensors(self.out, "the diagonal", "--out diagonal.safetensors")


@dataclass(frozen=True)
class JacnormConfig(Section):
    """Norms of the input-output Jacobian, an example at a time."""

    kind = "jacnorm"
    norm: Norm = setting("both", "Which norm.")
    top: int = setting(10, "How many of the largest examples to list.", minimum=0)
    per_example: str | None = setting(None, "Write every example's norms to this .csv or .npz.", metavar="FILE")
    per_class: bool = setting(False, "The norms' means and largest values by class label.")
    linf: bool = setting(False, "Bounds on the norm from l-infinity to l2 too, where all rows are computed.")
    directions: str | None = setting(
        None, "Write the listed examples' leading singular vectors to this .safetensors file.", metavar="FILE"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.per_example is not None and not self.per_example.endswith((".csv", ".npz")):
            raise UsageError(
                "CT005",
                "no such format for the examples' norms",
                expected=".csv or .npz",
                received=self.per_example,
                remedy="--per-example norms.csv",
            )
        check_safetensors(self.directions, "singular vectors", "--directions directions.safetensors")


@dataclass(frozen=True)
class CheckConfig(Section):
    """Preflight alone."""

    kind = "check"
    operator: OperatorName = setting("hessian", "Which matrix's products are tried.")


@dataclass(frozen=True)
class VerifyConfig(Section):
    """The same numbers by other ways."""

    kind = "verify"
    k: int = setting(3, "How many of the largest eigenvalues.", "-k", "--num", minimum=1)
    rtol: float = setting(1e-3, "Relative error of each eigenvalue to reach.", minimum=1e-15)
    tools: str = setting("dense,pyhessian", "What to compare with.", metavar="TOOL,…")
    max_dense: int = setting(2000, "Parameters up to which the dense matrix is made.", minimum=1)


Analysis = EigsConfig | TraceConfig | DensityConfig | DiagConfig | JacnormConfig | CheckConfig | VerifyConfig
ANALYSES: dict[str, type[Analysis]] = {
    section.kind: section
    for section in (EigsConfig, TraceConfig, DensityConfig, DiagConfig, JacnormConfig, CheckConfig, VerifyConfig)
}
SECTIONS: dict[str, type[Section]] = {
    "model": ModelConfig,
    "data": DataConfig,
    "loss": LossConfig,
    "params": ParamsConfig,
    "compute": ComputeConfig,
}


@dataclass(frozen=True)
class RunConfig:
    """A whole run: one problem, one analysis, and where each value came from."""

    model: ModelConfig
    data: DataConfig
    loss: LossConfig
    params: ParamsConfig
    compute: ComputeConfig
    analysis: Analysis
    sources: dict[str, str] = field(default_factory=dict)
    folder: str | None = None


def type_hints(cls: type) -> dict[str, Any]:
    """The resolved annotations of a section."""
    return get_type_hints(cls)


def flags_of(item: Any) -> tuple[str, ...]:
    """The flags of a field."""
    return item.metadata.get("flags") or ("--" + item.name.replace("_", "-"),)


def plain_type(annotation: Any) -> Any:
    """The annotation without `| None`."""
    inner = [a for a in get_args(annotation) if a is not type(None)]
    return inner[0] if type(None) in get_args(annotation) and len(inner) == 1 else annotation


def choices_of(annotation: Any) -> tuple[Any, ...]:
    """The values of a Literal, or none."""
    plain = plain_type(annotation)
    return get_args(plain) if get_origin(plain) is Literal else ()


def parse_bytes(text: str) -> int:
    """`8GiB`, `500MB`, `1e9` or a plain number of bytes.

    Raises:
        UsageError: CT001, not a size.
    """
    match = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*([kmgt]?)(i?)b?\s*", str(text).lower())
    try:
        number = float(match[1]) if match else -1.0
    except ValueError:
        number = -1.0
    if match is None or number < 0:
        raise UsageError(
            "CT001",
            "no such size",
            expected="a number with a unit",
            received=str(text),
            remedy="--memory-budget 8GiB",
        )
    power = " kmgt".index(match[2]) if match[2] else 0
    return int(number * (1024 if match[3] else 1000) ** power)
