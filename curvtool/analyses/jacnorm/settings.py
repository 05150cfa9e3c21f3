"""What a user may set for the norms of Jacobians."""

from __future__ import annotations

from dataclasses import dataclass

from curvtool.config.section import AnalysisSettings, check_safetensors, setting
from curvtool.errors import UsageError
from curvtool.vocabulary import Norm


@dataclass(frozen=True)
class Settings(AnalysisSettings):
    """Norms of the input-output Jacobian, an example at a time.

    How much the outputs move when an input moves; needs neither targets nor a loss.
    """

    kind = "jacnorm"
    needs_loss = False
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


SETTINGS = Settings
