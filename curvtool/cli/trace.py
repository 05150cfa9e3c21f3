"""`curvtool trace`."""

from __future__ import annotations

from typing import Any

from curvtool.cli.options import Output, with_options
from curvtool.config.analyses import TraceConfig


@with_options(TraceConfig)
def trace(flags: dict[str, Any], output: Output) -> None:
    """Trace of the loss's Hessian, with a 95 % confidence interval.

    Mean curvature over all directions; by random probes, one for each group of samples.
    """
    from curvtool.cli.execute import execute

    execute("trace", flags, output)
