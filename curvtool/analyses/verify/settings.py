"""What a user may set for the comparison with other tools."""

from __future__ import annotations

from dataclasses import dataclass

from curvtool.config.section import AnalysisSettings, refuse_unless, setting


@dataclass(frozen=True)
class Settings(AnalysisSettings):
    """The same eigenvalues and trace by PyHessian and by the dense matrix, side by side.

    With what each costs, and a verdict. Needs the extra: pip install "curvtool\\[reference]".
    """

    kind = "verify"
    measures_anew = True
    k: int = setting(3, "How many of the largest eigenvalues.", "-k", "--num", minimum=1)
    rtol: float = setting(1e-3, "Relative error of each eigenvalue to reach.", minimum=1e-15, below=1)
    tools: str = setting("dense,pyhessian", "What to compare with.", metavar="TOOL,…")
    max_dense: int = setting(2000, "Parameters up to which the dense matrix is made.", minimum=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        for tool in self.tools.split(","):
            known = tool.strip() in {"dense", "pyhessian"}
            refuse_unless(known, f"unknown tool {tool.strip()!r}", "dense, pyhessian", tool, "--tools dense", "CT001")


SETTINGS = Settings
