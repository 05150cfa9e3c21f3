"""The settings of every analysis, declared once: type, default, flag, help."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from curvtool.config.section import Section, check_safetensors, setting
from curvtool.errors import UsageError

OperatorName = Literal["hessian", "ggn", "fisher", "empirical-fisher"]
Which = Literal["la", "sa", "lm", "be"]
EigsMethod = Literal["lanczos", "power"]
DiagonalMethod = Literal["auto", "hutchinson", "exact"]
TraceMethod = Literal["auto", "hutchinson", "deflated", "hutch++", "xtrace", "exact"]
Check = Literal["none", "fast", "full"]
Basis = Literal["auto", "device", "host", "bfloat16"]
DensityMethod = Literal["auto", "probes", "exact"]
Norm = Literal["both", "frobenius", "spectral"]


def _number(text: str) -> float:
    """NaN for what is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


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
    atol: float = setting(0.0, "Error that is enough however small an eigenvalue is (for those near zero).", minimum=0)
    max_passes: int = setting(300, "Products after which to stop unconverged.", minimum=1)
    operator: OperatorName = setting("hessian", "Which matrix; ggn: Gauss-Newton.")
    check: Check = setting(
        "fast",
        "Closing check: none; fast, a few products, some of which look for missed pairs (not for power iteration or a "
        "bfloat16 basis); full makes true residuals and looks for missed pairs.",
    )
    per_layer: bool = setting(False, "The leading eigenvalue of every layer's own block too.")
    lr: str | None = setting(
        None,
        "Learning rate: print it times the largest eigenvalue, against 2; auto: as the checkpoint's optimizer had it.",
        metavar="NUMBER|auto",
    )
    vectors: str | None = setting(None, "Write the eigenvectors to this .safetensors file.", metavar="FILE")
    start: str | None = setting(None, "Start from the vectors of this .safetensors file.", metavar="FILE")
    deflate: str | None = setting(
        None, "Known eigenvectors (.safetensors) in whose complement to look.", metavar="FILE"
    )
    vector_rtol: float | None = setting(None, "Error of each eigenvector to reach too (sine of its angle).", minimum=0)
    block_size: int = setting(1, "Starting vectors of Lanczos: how often a multiple eigenvalue is seen.", minimum=1)
    max_basis: int | None = setting(None, "Most vectors that Lanczos holds; from the memory budget by default.")
    basis: Basis = setting("auto", "Where Lanczos keeps them: host memory, or bfloat16 (half the memory, coarser).")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lr is not None and self.lr != "auto" and not 0 < _number(self.lr) < math.inf:
            raise UsageError(
                "CT001", "no such learning rate", expected="a number above 0, or auto", received=self.lr,
                remedy="--lr 0.1",
            )  # fmt: skip
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
    method: DensityMethod = setting("auto", "By probes; or every eigenvalue, where that is hardly dearer.")
    outliers: int = setting(5, "Eigenvalues largest in magnitude to find first and to place exactly.", minimum=0)
    deflate: str | None = setting(
        None, "Eigenvectors (.safetensors, of eigs --vectors) to place exactly instead.", metavar="FILE"
    )
    width: float | None = setting(
        None, "Standard deviation of the smoothing; a hundredth of the spectrum's length by default.", minimum=1e-300
    )
    near: float | None = setting(
        None,
        "What counts as near zero; a hundredth of the largest magnitude, to one digit, by default.",
        minimum=1e-300,
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
    recompute: int | None = setting(
        None,
        "Examples to recompute exactly, at most, until the list is certain; by default as many as cost what the "
        "estimates did.",
        minimum=0,
    )
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
