"""The program: its commands, and errors as exit status. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from curvtool.cli import (
    compare,
    config,
    doctor,
    explain,
    export,
    init,
    inspect,
    interruption,
    ranks,
    render,
)
from curvtool.cli.analysis import Commands
from curvtool.cli.once import Once
from curvtool.errors import (
    EXIT_BUG,
    EXIT_INTERRUPTED,
    EXIT_LOAD,
    EXIT_PIPE,
    EXIT_USAGE,
    CurvtoolError,
    is_out_of_memory,
    out_of_memory,
)
from curvtool.threads import STARTED

app = typer.Typer(
    name="curvtool",
    cls=Commands,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="The curvature of a neural network, from its checkpoint: eigenvalues, trace, density and diagonal of the "
    "loss's Hessian, norms of the input-output Jacobian, each with its error.",
)
_REPORTS: tuple[Callable[..., None], ...] = (render.render, compare.compare, explain.explain)
_SETTING_UP: tuple[Callable[..., None], ...] = (init.init, inspect.inspect, doctor.doctor)
for command in _REPORTS:
    app.command(cls=Once, rich_help_panel="Reports")(command)
app.add_typer(
    export.app,
    name="export",
    rich_help_panel="Reports",
    short_help="Reports, or rows of track, to TensorBoard, MLflow or Weights & Biases.",
)
for command in _SETTING_UP:
    app.command(cls=Once, rich_help_panel="Setting up")(command)
app.add_typer(config.app, name="config", rich_help_panel="Setting up")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"curvtool {version('curvtool')}")
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Runs the program and ends the process with its status."""
    STARTED.watch()
    interruption.install()
    if any(word.partition("=")[0] in {"--state", "--resume"} for word in sys.argv):
        interruption.be_patient()
    if sys.stdout is None:  # closed by the caller
        sys.stdout = io.StringIO()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a letter that the terminal does not have is no reason to stop
            stream.reconfigure(errors="replace")
    status = _run()
    interruption.ignore_further()
    if _rank():
        ranks.end_process(status)
    sys.exit(status)


def _run() -> int:
    try:
        app(standalone_mode=True, prog_name="curvtool")
    except SystemExit as exit_:
        if exit_.code == EXIT_INTERRUPTED:
            sys.stderr.write("interrupted\n")
        if exit_.code == EXIT_BUG:  # so end Typer and Rich where nobody reads their output any more
            return EXIT_PIPE
        return exit_.code if isinstance(exit_.code, int) else int(bool(exit_.code))
    except CurvtoolError as error:
        _say(error)
        return error.exit_status
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone: nothing is left to say to it
        sys.stderr.close()
        return EXIT_PIPE
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EIO, errno.EDQUOT}:
            return _report_bug(error)
        sys.stderr.write(f"error CT007: the output cannot be written: {error.strerror}\n")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left in the buffer would fail again at the exit
        return EXIT_USAGE
    except Exception as error:
        if is_out_of_memory(error):
            _say(out_of_memory(error))
            return EXIT_LOAD
        return _report_bug(error)
    return 0


def _say(error: CurvtoolError) -> None:
    from rich.markup import escape

    from curvtool.cli.console import plain_console

    console = plain_console(stderr=True, highlight=False, soft_wrap=True)
    first, *rest = error.lines()
    console.print(f"[bold red]{_rank()}error[/] [dim]{error.code}[/]: {escape(first)}")
    for line in rest:
        console.print("  " + escape(line))


def _rank() -> str:
    """Which of several ranks speaks."""
    from curvtool.cluster.place import place_of

    try:
        place = place_of()
    except CurvtoolError:  # which is what is being told
        return ""
    return "" if place is None else f"rank {place.rank}: "


def _report_bug(error: Exception) -> int:
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile("w", prefix="curvtool-", suffix=".log", delete=False, encoding="utf-8") as file:
        file.write(" ".join(sys.argv) + "\n")
        traceback.print_exception(error, file=file)
    words = next(iter(str(error).strip().splitlines()), "")
    sys.stderr.write(
        f"{_rank()}error CT000: a bug in curvtool: {type(error).__name__}: {words}\n"
        f"  the traceback is in {file.name}; please send it with the command that you typed\n"
    )
    return EXIT_BUG
