"""`curvtool check`."""

from __future__ import annotations

from typing import Any

from curvtool.cli.options import Output, with_options
from curvtool.config.analyses import CheckConfig


@with_options(CheckConfig)
def check(flags: dict[str, Any], output: Output) -> None:
    """Preflight alone: is the second derivative of this model right, and how exact?

    Symmetry, differences of gradients, the noise floor of the precision, and which ways to run a product work.
    """
    from curvtool.cli.execute import execute

    execute("check", flags, output)
