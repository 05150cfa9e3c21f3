"""What a user may set for the spectral density."""

from __future__ import annotations

from dataclasses import dataclass

from curvtool.config.section import AnalysisSettings, setting
from curvtool.vocabulary import DensityChoice, Matrix


@dataclass(frozen=True)
class Settings(AnalysisSettings):
    """Spectral density of the loss's Hessian, with an error band.

    How many directions are flat, how many curve downwards, and where the rest lies; known outliers placed exactly.
    """

    kind = "density"
    probes: int = setting(4, "Random vectors; the error band is over them.", minimum=1)
    steps: int = setting(50, "Lanczos steps, and quadrature nodes, a vector.", minimum=2)
    method: DensityChoice = setting("auto", "By probes; or every eigenvalue, where that is hardly dearer.")
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
    operator: Matrix = setting("hessian", "Which matrix.")


SETTINGS = Settings
