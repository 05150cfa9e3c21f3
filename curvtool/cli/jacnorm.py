"""`curvtool jacnorm`."""

from __future__ import annotations

from typing import Any

from curvtool.cli.options import Output, with_options
from curvtool.config.analyses import JacnormConfig


@with_options(JacnormConfig)
def jacnorm(flags: dict[str, Any], output: Output) -> None:
    """Norms of the input-output Jacobian, an example at a time.

    How much the outputs move when an input moves; needs neither targets nor a loss.
    """
    from curvtool.cli.execute import execute

    execute("jacnorm", flags, output)
