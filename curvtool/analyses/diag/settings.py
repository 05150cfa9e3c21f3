"""What a user may set for the diagonal."""

from __future__ import annotations

from dataclasses import dataclass

from curvtool.config.section import AnalysisSettings, check_safetensors, setting
from curvtool.vocabulary import DiagonalChoice, Matrix


@dataclass(frozen=True)
class Settings(AnalysisSettings):
    """Diagonal of the loss's Hessian, with a standard error for each entry.

    Which parameters are sharp by themselves; written by parameter name with --out.
    """

    kind = "diag"
    out: str | None = setting(
        None, "Write the diagonal, and its standard errors, by parameter name (.safetensors).", metavar="FILE"
    )
    method: DiagonalChoice = setting("auto", "By probes, or exactly; the report says why.")
    rtol: float = setting(
        0.1, "Norm of all standard errors over the diagonal's norm, to reach.", minimum=1e-15, below=1
    )
    max_passes: int = setting(300, "Passes after which to stop with larger errors.", minimum=2)
    probe_group: int | None = setting(None, "Samples that share a random probe; 8 to 32 by default.", minimum=1)
    operator: Matrix = setting("hessian", "Which matrix; for ggn and the Fishers often exact.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_safetensors(self.out, "the diagonal", "--out diagonal.safetensors")


SETTINGS = Settings
