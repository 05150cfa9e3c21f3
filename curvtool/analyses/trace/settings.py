"""What a user may set for the trace."""

from __future__ import annotations

from dataclasses import dataclass

from curvtool.config.section import AnalysisSettings, refuse_unless, setting
from curvtool.vocabulary import Matrix, TraceChoice


@dataclass(frozen=True)
class Settings(AnalysisSettings):
    """Trace of the loss's Hessian, with a 95 % confidence interval.

    Mean curvature over all directions; by random probes, one for each group of samples.
    """

    kind = "trace"
    rtol: float = setting(
        0.05, "Stop when the 95 % interval's half-width is this share of the trace.", minimum=1e-15, below=1
    )
    max_passes: int = setting(1000, "Passes after which to stop with a wider interval.", minimum=2)
    probe_group: int | None = setting(None, "Samples that share a random probe; 8 to 32 by default.", minimum=1)
    method: TraceChoice = setting("auto", "auto chooses by the variance of the first passes, and the report says why.")
    rank: int | None = setting(None, "Of deflated and hutch++: directions whose part is exact.", minimum=1)
    operator: Matrix = setting("hessian", "Which matrix.")
    per_layer: bool = setting(False, "Every layer's and parameter's trace too, from the same probes.")

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_unless(
            self.rank is None or self.method in {"deflated", "hutch++"},
            "only deflated and hutch++ take a rank",
            "--method deflated",
            self.method,
            "--method deflated",
        )
        refuse_unless(
            not self.per_layer or self.method in {"auto", "hutchinson", "exact"},
            f"{self.method} does not give the layers' traces",
            "auto, hutchinson or exact",
            self.method,
            "--method auto",
        )


SETTINGS = Settings
