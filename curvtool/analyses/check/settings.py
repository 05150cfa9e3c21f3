"""What a user may set for the preflight alone."""

from __future__ import annotations

from dataclasses import dataclass

from curvtool.config.section import AnalysisSettings, setting
from curvtool.vocabulary import Matrix


@dataclass(frozen=True)
class Settings(AnalysisSettings):
    """Preflight alone: is the second derivative of this model right, and how exact?

    Symmetry, differences of gradients, the noise floor of the precision, and which ways to run a product work.
    """

    kind = "check"
    measures_anew = True
    operator: Matrix = setting("hessian", "Which matrix's products are tried.")


SETTINGS = Settings
