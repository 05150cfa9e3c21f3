"""`curvtool diag`."""

from __future__ import annotations

from typing import Any

from curvtool.cli.options import Output, with_options
from curvtool.config.analyses import DiagConfig


@with_options(DiagConfig)
def diag(flags: dict[str, Any], output: Output) -> None:
    """Diagonal of the loss's Hessian, with a standard error an entry.

    Which parameters are sharp by themselves; written by parameter name with --out.
    """
    from curvtool.cli.execute import execute

    execute("diag", flags, output)
