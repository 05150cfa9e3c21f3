"""The words that a user types for a choice, each declared once; and what they are called in print. Without torch."""

from __future__ import annotations

from typing import Literal

# the matrix
Matrix = Literal["hessian", "ggn", "fisher", "empirical-fisher"]
MATRICES: dict[str, str] = {
    "hessian": "Hessian",
    "ggn": "Gauss-Newton matrix",
    "fisher": "Fisher information",
    "empirical-fisher": "empirical Fisher",
}

# eigenvalues: largest, smallest, of largest magnitude, at both ends
Which = Literal["la", "sa", "lm", "be"]
EigenvalueMethod = Literal["lanczos", "power"]
Check = Literal["none", "fast", "full"]
Storage = Literal["device", "host", "bfloat16"]  # of the basis: as it is, in the host's memory, in half of it
Basis = Literal["auto", Storage]
BoundKind = Literal["linear", "quadratic", "noise"]
Unmet = Literal["rounding", "rank", "products"]  # why an eigenvalue did not come within its tolerance

# the other quantities: how each was computed, and what may be asked for
TraceMethod = Literal["hutchinson", "deflated", "hutch++", "xtrace", "exact"]
TraceChoice = Literal["auto", TraceMethod]
DiagonalMethod = Literal["hutchinson", "exact"]
DiagonalChoice = Literal["auto", DiagonalMethod]
DensityMethod = Literal["probes", "exact"]
DensityChoice = Literal["auto", DensityMethod]
Norm = Literal["both", "frobenius", "spectral"]

# the problem
Weights = Literal["auto", "model", "ema"]
Reduction = Literal["mean", "sum", "token-mean", "sample-mean"]
BatchNorm = Literal["eval", "batch"]
TokenDtype = Literal["uint16", "uint32", "int32", "int64", "uint8"]
LOSSES = (
    "cross-entropy", "bce-with-logits", "mse", "l1", "smooth-l1", "huber", "nll", "poisson-nll", "gaussian-nll",
    "causal-lm", "masked-lm", "model",
)  # fmt: skip

# how it is computed
Dtype = Literal["float32", "float64", "bfloat16"]
Form = Literal["torch", "rewritten", "channels-last"]  # of the model's operations
FormChoice = Literal["auto", Form]
Mode = Literal["kept", "fresh", "forward", "compiled", "finite-difference"]  # of a product
ModeChoice = Literal["auto", Mode]

Start = Literal["cold", "warm"]  # of a search within a training run: afresh, or from the checkpoint before

# other words for some of these, which a message then names
SYNONYMS = {
    "largest": "la", "max": "la", "smallest": "sa", "min": "sa", "both": "be", "magnitude": "lm",
    "gauss-newton": "ggn", "gnn": "ggn", "fp32": "float32", "fp64": "float64", "double": "float64",
    "bf16": "bfloat16", "average": "mean", "avg": "mean", "none": "sum",
}  # fmt: skip
