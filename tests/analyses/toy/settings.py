from dataclasses import dataclass

from curvtool.config.section import AnalysisSettings, setting


@dataclass(frozen=True)
class Settings(AnalysisSettings):
    """Largest entry of the loss's gradient, for the tests.

    One product with the operator beside it.
    """

    kind = "toy"
    times: float = setting(1.0, "A factor for the tests.", minimum=0.5)


SETTINGS = Settings
