"""What every analysis command does: resolve, run, show, and end with the right status."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from curvtool.cli.options import Output
from curvtool.cli.progress import TerminalObserver
from curvtool.config.resolve import resolve
from curvtool.config.schema import RunConfig
from curvtool.errors import EXIT_INTERRUPTED, CurvtoolError, NotConverged, UsageError
from curvtool.report.write import check_writable, write_atomic

_PIPED_WIDTH = 120


def execute(kind: str, flags: dict[str, Any], output: Output) -> None:
    """Runs one analysis: the result goes to stdout, everything else to stderr.

    Raises:
        CurvtoolError: what went wrong; what had been computed is written first.
        SystemExit: interrupted (130), after writing likewise.
    """
    output.output_format()
    targets = [Path(name) for name in (output.output, output.json) if name is not None and name != "-"]
    for target in targets:
        check_writable(target)
    config = resolve(kind, flags, config_file=output.config)
    errors = make_console(output, stderr=True)
    observer = TerminalObserver(errors, quiet=output.quiet, verbose=output.verbose)
    if output.verbose:
        _show_settings(config, errors)
    if output.dry_run:
        from curvtool.pipeline.plan import plan
        from curvtool.render.table import print_plan

        with observer:
            planned = plan(config, observer)
        text = planned.model_dump_json(indent=2)
        if output.json == "-" or output.format == "json":
            sys.stdout.write(text + "\n")
        else:
            print_plan(planned, make_console(output))
        if output.json not in (None, "-"):
            write_atomic(Path(str(output.json)), text.encode())
        return
    from curvtool.pipeline.run import run

    with observer:
        outcome = run(config, observer)
    report = outcome.report
    text = json.dumps(report.model_dump(mode="json"), indent=2, allow_nan=False) + "\n"
    files = {Path(output.json): text} if output.json is not None and output.json != "-" else {}
    if output.output is not None:
        files[output.output] = _as_text(report, text, str(output.output_format()))
    unwritten: CurvtoolError | None = None
    for path, content in files.items():
        try:
            write_atomic(path, content.encode())
        except UsageError as error:
            unwritten = error  # told at the end: the result is still printed
    if not output.quiet:
        for warning in report.warnings:
            errors.print(f"warning {warning.code}: {warning.message}", style="yellow", markup=False, highlight=False)
    if output.json == "-":
        sys.stdout.write(text)
    elif output.format == "table":
        from curvtool.render.table import print_report

        print_report(report, make_console(output))
    else:
        sys.stdout.write(_as_text(report, text, output.format))
    sys.stdout.flush()
    if isinstance(outcome.stopped, CurvtoolError):
        raise outcome.stopped
    if outcome.stopped is not None:
        raise SystemExit(EXIT_INTERRUPTED)
    if unwritten is not None:
        raise unwritten
    if output.strict and report.status != "complete":
        raise NotConverged("CT045", "not converged, and --strict was given", remedy="see the warnings above")


def _as_text(report: Any, json_text: str, format: str) -> str:
    from curvtool.render.text import to_csv, to_markdown

    return {"json": lambda: json_text, "csv": lambda: to_csv(report), "md": lambda: to_markdown(report)}[format]()


def make_console(output: Output, *, stderr: bool = False) -> Console:
    """A console of a fixed width when piped; colours as asked for."""
    stream = sys.stderr if stderr else sys.stdout
    piped = not stream.isatty()
    return Console(
        stderr=stderr,
        width=_PIPED_WIDTH if piped and "COLUMNS" not in os.environ else None,
        force_terminal=True if output.color == "always" else None,
        no_color=True if output.color == "never" else None,
        soft_wrap=stderr,
    )


def _show_settings(config: RunConfig, console: Console) -> None:
    for name, source in config.sources.items():
        if source != "default":
            section, _, key = name.partition(".")
            part = getattr(config, section, config.analysis)
            console.print(f"{name} = {getattr(part, key)!r}  ({source})", style="dim", markup=False, highlight=False)
