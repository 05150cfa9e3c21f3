"""`curvtool density`."""

from __future__ import annotations

from typing import Any

from curvtool.cli.options import Output, with_options
from curvtool.config.analyses import DensityConfig


@with_options(DensityConfig)
def density(flags: dict[str, Any], output: Output) -> None:
    """Spectral density of the loss's Hessian, with an error band.

    How many directions are flat, how many curve downwards, and where the rest lies; known outliers placed exactly.
    """
    from curvtool.cli.execute import execute

    execute("density", flags, output)
