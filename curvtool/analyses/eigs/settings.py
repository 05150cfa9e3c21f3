"""What a user may set for extreme eigenvalues."""

from __future__ import annotations

import math
from dataclasses import dataclass

from curvtool.config.section import AnalysisSettings, check_safetensors, refuse_unless, setting
from curvtool.errors import UsageError
from curvtool.vocabulary import Basis, Check, EigenvalueMethod, Matrix, Which


def _number(text: str) -> float:
    """NaN for what is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


@dataclass(frozen=True)
class Settings(AnalysisSettings):
    """Extreme eigenvalues of the loss's Hessian, each with an estimate of its error.

    Sharpness of a minimum, and the learning rate's edge of stability (lambda_max against 2/lr).
    """

    kind = "eigs"
    k: int = setting(5, "How many eigenvalues (at each end for be).", "-k", "--num", minimum=1)
    which: Which | None = setting(
        None,
        "la largest, sa smallest, lm largest magnitude, be both ends; la by default, lm for power iteration.",
    )
    method: EigenvalueMethod = setting("lanczos", "Lanczos, or deflated power iteration.")
    rtol: float = setting(1e-3, "Relative error of each eigenvalue to reach.", minimum=1e-15, below=1)
    atol: float = setting(0.0, "Error that is enough however small an eigenvalue is (for those near zero).", minimum=0)
    max_passes: int = setting(300, "Passes over the data (a product each) after which to stop unconverged.", minimum=1)
    operator: Matrix = setting("hessian", "Which matrix; ggn: Gauss-Newton.")
    check: Check = setting(
        "fast",
        "After the search. none: nothing; fast: a few products, some of which look for missed eigenvalues (not with "
        "power iteration or a bfloat16 basis); full: every residual anew, and a longer look for missed ones.",
    )
    per_layer: bool = setting(False, "The leading eigenvalue of every layer's own block too.")
    lr: str | None = setting(
        None,
        "Learning rate, whose product with the largest eigenvalue is compared with 2; auto: from the optimizer in the "
        "checkpoint.",
        metavar="NUMBER|auto",
    )
    vectors: str | None = setting(None, "Write the eigenvectors to this .safetensors file.", metavar="FILE")
    start: str | None = setting(None, "Start from the vectors of this .safetensors file.", metavar="FILE")
    deflate: str | None = setting(None, "Known eigenvectors (.safetensors) to project out.", metavar="FILE")
    vector_rtol: float | None = setting(
        None, "Error of each eigenvector to reach as well (sine of its angle).", minimum=1e-15, below=1
    )
    block_size: int = setting(1, "Starting vectors; a multiple eigenvalue is found this often at most.", minimum=1)
    max_basis: int | None = setting(
        None, "Largest number of vectors that Lanczos stores; from the memory budget by default."
    )
    basis: Basis = setting(
        "auto", "Where Lanczos stores its vectors: device, host memory, or bfloat16 (half the memory, less exact)."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lr is not None and self.lr != "auto" and not 0 < _number(self.lr) < math.inf:
            raise UsageError(
                "CT001", "no such learning rate", expected="a number above 0, or auto", received=self.lr,
                remedy="--lr 0.1",
            )  # fmt: skip
        is_power = self.method == "power"
        refuse_unless(
            not is_power or self.which in (None, "lm"),
            f"power iteration cannot find {self.which!r}: it finds the largest magnitudes",
            "--which lm",
            self.which,
            "--method lanczos",
        )
        refuse_unless(
            not is_power or self.basis == "auto",
            "power iteration has no basis to place",
            "Lanczos",
            self.method,
            "--method lanczos",
        )
        refuse_unless(
            not is_power or (self.start is None and self.deflate is None and self.block_size == 1),
            "power iteration takes no --start, --deflate or --block-size",
            "--method lanczos",
            f"--method {self.method}",
            "leave them out, or --method lanczos",
        )
        refuse_unless(self.atol < math.inf, "--atol is too large", "a finite number", self.atol, "--atol 1e-6", "CT001")
        check_safetensors(self.vectors, "eigenvectors", "--vectors eigenvectors.safetensors")


SETTINGS = Settings
