"""`curvtool eigs`."""

from __future__ import annotations

from typing import Any

from curvtool.cli.options import Output, with_options
from curvtool.config.analyses import EigsConfig


@with_options(EigsConfig)
def eigs(flags: dict[str, Any], output: Output) -> None:
    """Extreme eigenvalues of the loss's Hessian, each with an estimate of its error.

    Sharpness of a minimum, and the learning rate's edge of stability (lambda_max against 2/lr).
    """
    from curvtool.cli.execute import execute

    execute("eigs", flags, output)
