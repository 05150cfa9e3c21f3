"""What every analysis command does: resolve, run, show, and end with the right status."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from curvtool.cli import interruption
from curvtool.cli.options import Output
from curvtool.cli.progress import TerminalObserver
from curvtool.cli.ranks import joined
from curvtool.config.resolve import resolve, resolve_all
from curvtool.config.schema import RunConfig
from curvtool.errors import (
    EXIT_BUG,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_RESUMABLE,
    CurvtoolError,
    NotConverged,
    StopRequested,
    UsageError,
)
from curvtool.report.write import check_writable, write_atomic

if TYPE_CHECKING:
    from curvtool.cluster.solo import Solo
    from curvtool.pipeline.journal import Keeping
    from curvtool.report.model import Report

_PIPED_WIDTH = 120


def execute(kind: str, flags: dict[str, Any], output: Output) -> None:
    """Runs one analysis: the result goes to stdout, everything else to stderr.

    Raises:
        CurvtoolError: what went wrong; what had been computed is written first.
        SystemExit: interrupted (130), after writing likewise.
    """
    output.output_format()
    output.bytes_per_second()
    execute_all([resolve(kind, flags, config_file=output.config)], output)


def execute_all(configs: Sequence[RunConfig], output: Output) -> None:
    """Runs several analyses of one problem likewise."""
    with joined(configs[0].compute.rank_timeout) as cluster:
        if cluster.is_first:
            for name in (output.output, output.json):
                if name is not None and name != "-":
                    check_writable(Path(name))
        _execute(configs, output, cluster)


def _execute(configs: Sequence[RunConfig], output: Output, cluster: Solo) -> None:
    config = configs[0]
    errors = make_console(output, stderr=True)
    quiet = output.quiet or not cluster.is_first
    observer = TerminalObserver(errors, quiet=quiet, verbose=output.verbose)
    if output.verbose and cluster.is_first:
        _show_settings(config, errors)
    if output.dry_run:
        from curvtool.pipeline.plan import plan
        from curvtool.render.table import print_plan

        with observer:
            planned = plan(config, observer, cluster, ranks=output.ranks, bandwidth=output.bytes_per_second())
        if not cluster.is_first:
            return
        text = planned.model_dump_json(indent=2)
        if output.json == "-" or output.format == "json":
            sys.stdout.write(text + "\n")
        else:
            print_plan(planned, make_console(output))
        if output.json not in (None, "-"):
            write_atomic(Path(str(output.json)), text.encode())
        return
    keeping = _keeping(output)
    try:
        _run_and_show(configs, output, cluster, keeping, observer, errors)
    except BaseException as error:
        other = EXIT_INTERRUPTED if isinstance(error, KeyboardInterrupt) else EXIT_BUG
        status = error.code if isinstance(error, SystemExit) else getattr(error, "exit_status", other)
        _write_status(keeping, cluster, status)
        raise
    _write_status(keeping, cluster, EXIT_OK)


def _write_status(keeping: Keeping | None, cluster: Solo, status: Any) -> None:
    """Beside the state, for job scripts: torchrun turns every status into 1."""
    if keeping is not None and cluster.is_first and keeping.path.is_dir():
        with contextlib.suppress(CurvtoolError):  # a full disk
            write_atomic(keeping.path / "exit-status", f"{status}\n".encode())


def _run_and_show(
    configs: Sequence[RunConfig],
    output: Output,
    cluster: Solo,
    keeping: Keeping | None,
    observer: TerminalObserver,
    errors: Console,
) -> None:
    from curvtool.pipeline.run import run_all

    with observer:
        try:
            outcome = run_all(configs, observer, cluster, keeping, interruption.was_asked)
        except StopRequested:
            raise SystemExit(_status_of_stop(keeping is not None, errors, keeping)) from None
    if isinstance(outcome.stopped, StopRequested):
        interruption.ignore_further()
    unwritten = _show(outcome.report, output, errors) if cluster.is_first else None
    if isinstance(outcome.stopped, CurvtoolError):
        raise outcome.stopped
    if outcome.stopped is not None:
        raise SystemExit(_status_of_stop(outcome.is_resumable, errors, keeping))
    if unwritten is not None:
        raise unwritten
    if output.strict and outcome.report.status != "complete":
        raise NotConverged("CT045", "not converged, and --strict was given", remedy="see the warnings above")


def execute_track(pattern: str | None, flags: dict[str, Any], output: Output, shard: str | None, start: str) -> None:
    """Runs the same analyses over checkpoints, a row each."""
    from curvtool.pipeline.checkpoints import found_by

    paths = found_by(pattern, shard)
    if not paths:
        make_console(output, stderr=True).print(f"no checkpoints in part {shard}: there are fewer than parts")
        return
    flags["checkpoint"] = str(paths[0])
    configs = resolve_all(flags, config_file=output.config, default="eigs")
    with joined(configs[0].compute.rank_timeout) as cluster:
        errors = make_console(output, stderr=True)
        quiet = output.quiet or not cluster.is_first
        from curvtool.pipeline.track import Track
        from curvtool.render.track import print_row, print_rows

        target = Path(output.output) if output.output is not None else Path("track.jsonl")
        track = Track(configs, paths, target, shard, start, cluster, _keeping(output), interruption.was_asked)
        with TerminalObserver(errors, quiet=quiet, verbose=output.verbose) as observer:
            rows = []
            for row in track.rows(observer):
                rows.append(row)
                if cluster.is_first and not output.quiet:
                    observer.notice(print_row(row))
        if cluster.is_first:
            if output.json == "-" or output.format == "json":
                sys.stdout.writelines(json.dumps(row.model_dump(mode="json"), allow_nan=False) + "\n" for row in rows)
            else:
                print_rows(rows, make_console(output))
        if track.failed is not None:
            raise track.failed
        if track.was_stopped:
            raise SystemExit(EXIT_INTERRUPTED if interruption.was_ctrl_c() else EXIT_RESUMABLE)


def _keeping(output: Output) -> Keeping | None:
    """Where the state is kept, if anywhere; then signals wait for an end between two products."""
    from curvtool.pipeline.journal import Keeping

    folder = output.resume or output.state
    if folder is None:
        return None
    interruption.be_patient()
    return Keeping(folder, output.resume is not None, output.checkpoint_seconds)


def _status_of_stop(is_resumable: bool, errors: Console, keeping: Keeping | None) -> int:
    """75 where a batch system asked for the end and the run can go on."""
    if is_resumable and keeping is not None:
        errors.print(f"stopped; to go on: the same command with --resume {keeping.path}", markup=False, highlight=False)
    return EXIT_RESUMABLE if is_resumable and not interruption.was_ctrl_c() else EXIT_INTERRUPTED


def _show(report: Report, output: Output, errors: Console) -> CurvtoolError | None:
    """Files first, then the terminal; what could not be written is returned: the result is still printed."""
    text = json.dumps(report.model_dump(mode="json"), indent=2, allow_nan=False) + "\n"
    files = {Path(output.json): text} if output.json is not None and output.json != "-" else {}
    if output.output is not None:
        files[output.output] = _as_text(report, text, str(output.output_format()))
    unwritten: CurvtoolError | None = None
    for path, content in files.items():
        try:
            write_atomic(path, content.encode())
        except UsageError as error:
            unwritten = error
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
    return unwritten


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
