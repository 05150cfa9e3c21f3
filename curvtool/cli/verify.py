"""`curvtool verify`."""

from __future__ import annotations

from typing import Any

from curvtool.cli.options import Output, with_options
from curvtool.config.analyses import VerifyConfig


@with_options(VerifyConfig)
def verify(flags: dict[str, Any], output: Output) -> None:
    """The same eigenvalues and trace by PyHessian and by the dense matrix, side by side.

    With what each costs, and a verdict. Needs the extra: pip install "curvtool\\[reference]".
    """
    from curvtool.cli.execute import execute

    execute("verify", flags, output)
