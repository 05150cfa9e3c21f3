"""What every analysis command does: resolve, run, show, and end with the right status."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from curvtool.cli import interruption
from curvtool.cli.console import make_console, show_settings
from curvtool.cli.options import Output
from curvtool.cli.progress import TerminalObserver
from curvtool.cli.ranks import joined
from curvtool.config.resolve import resolve
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
from curvtool.threads import fit

if TYPE_CHECKING:
    from curvtool.cluster.solo import Solo
    from curvtool.report.model import Report
    from curvtool.resume.ledger import Keeping


def execute(kind: str, flags: dict[str, Any], output: Output) -> None:
    """Runs one analysis: the result goes to stdout, everything else to stderr.

    Raises:
        CurvtoolError: what went wrong; what had been computed is written first.
        SystemExit: interrupted (130), after writing likewise.
    """
    output.output_formats()
    output.bytes_per_second()
    execute_all([resolve(kind, flags, config_file=output.config)], output)


def execute_all(configs: Sequence[RunConfig], output: Output) -> None:
    """Runs several analyses of one problem likewise."""
    with joined(configs[0].compute.rank_timeout) as cluster:
        if cluster.is_first:
            for name in (*output.output, output.json):
                if name is not None and name != "-":
                    check_writable(Path(name))
                    _check_no_input(Path(name), configs)
        _execute(configs, output, cluster)


def _check_no_input(path: Path, configs: Sequence[RunConfig]) -> None:
    """A report must not take the place of what it is a report of.

    Raises:
        UsageError: CT007, it would.
    """
    config = configs[0]
    named = [config.model.checkpoint, config.model.base_model, *(config.data.source or "").split(",")]
    named += [getattr(each.analysis, name, None) for each in configs for name in ("start", "deflate")]
    named += [source for each in configs for source in each.sources.values() if source.endswith(".toml")]
    code = (config.model.factory, config.loss.name, config.data.source)
    named += [f"{text.partition(':')[0].replace('.', '/')}.py" for text in code if text and ":" in text]
    if any(_is_same(path, Path(each)) for each in named if each):
        raise UsageError(
            "CT007",
            f"{path} is what the run reads, and would be written over",
            expected="another file for the report",
            received=str(path),
            remedy="--json report.json",
        )


def _is_same(path: Path, other: Path) -> bool:
    try:
        return path.is_file() and other.is_file() and path.samefile(other)
    except (OSError, ValueError):  # a text that is no path
        return False


def _execute(configs: Sequence[RunConfig], output: Output, cluster: Solo) -> None:
    config = configs[0]
    errors = make_console(output, stderr=True)
    quiet = output.quiet or not cluster.is_first
    observer = TerminalObserver(errors, quiet=quiet, verbose=output.verbose)
    if output.verbose and cluster.is_first:
        show_settings(configs, errors)
    if output.dry_run:
        from curvtool.planning.plan import plan
        from curvtool.render.terminal import print_plan

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
    keeping = keeping_of(output)
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
    from curvtool.session.run import run_all

    with observer:
        told = fit(cluster.size)
        if told is not None:
            observer.notice(told)
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
    if output.strict and any(getattr(each, "contradicted", False) for each in outcome.report.analyses):
        raise NotConverged(
            "CT045", "another tool contradicts these numbers, and --strict was given", remedy="see the table above"
        )
    if output.strict and outcome.report.status != "complete":
        raise NotConverged(
            "CT045",
            "not converged, and --strict was given",
            remedy="the warnings of the report (without -q also above) name what would help",
        )


def keeping_of(output: Output) -> Keeping | None:
    """Where the state is kept, if anywhere; then signals wait for an end between two products."""
    from curvtool.resume.ledger import Keeping

    if output.resume is not None and output.state is not None and output.resume != output.state:
        raise UsageError(
            "CT003",
            "--state and --resume name two folders",
            expected="one of them: --resume goes on, or starts afresh, and keeps the state there",
            received=f"--state {output.state} --resume {output.resume}",
            remedy=f"--resume {output.resume}",
        )
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


def _show(report: Report, output: Output, errors: Console) -> Exception | None:
    """Files first, then the terminal; what could not be written is returned: the result is still printed."""
    from curvtool.render.formats import content

    files = {Path(output.json): "json"} if output.json is not None and output.json != "-" else {}
    files |= output.output_formats()
    unwritten: Exception | None = None
    for path, format in files.items():
        try:
            write_atomic(path, content(report, format))
        except Exception as error:  # whatever it is, the numbers are printed first
            unwritten = error
    if not output.quiet:
        for warning in report.warnings:
            errors.print(f"warning {warning.code}: {warning.message}", style="yellow", markup=False, highlight=False)
    if output.verbose:
        from curvtool.render.details import print_details

        print_details(report, errors)
    if output.json == "-":
        sys.stdout.write(content(report, "json").decode())
    elif output.format == "table":
        from curvtool.render.terminal import print_report

        print_report(report, make_console(output))
    else:
        sys.stdout.write(content(report, output.format).decode())
    sys.stdout.flush()
    return unwritten
