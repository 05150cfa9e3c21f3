"""`curvtool run`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from curvtool.cli.options import Output, with_options

_HELP = "A project file with several analyses; ./curvtool.toml where there is one."


def run(flags: dict[str, Any], output: Output) -> None:
    """Several analyses of one problem that is loaded once, as a project file lists them.

    Later ones use what earlier ones found: kept graphs, and eigenvectors, which leave less to the trace's probes and
    are placed exactly in the density. A flag wins over the file.
    """
    from curvtool.cli.execute import execute_all
    from curvtool.config.resolve import resolve_all

    output.output_formats()
    file = flags.pop("checkpoint") or output.config
    execute_all(resolve_all(flags, config_file=file), output)


def command() -> Callable[..., None]:
    """`run` with its options."""
    return with_options(None, argument="CONFIG", help=_HELP)(run)
