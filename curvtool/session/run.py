"""The one place where the stages meet: configuration -> problem -> operator -> estimator -> report."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from pydantic import TypeAdapter

from curvtool import registry
from curvtool.cluster.solo import Solo
from curvtool.config.schema import RunConfig
from curvtool.device import is_host, reset_peak
from curvtool.errors import STOPPING, CurvtoolError, RankLost, cause_of
from curvtool.estimators.observer import SILENT, Observer
from curvtool.operators.distribution import SharedParameters, SharedSamples
from curvtool.operators.memory import return_large_blocks, reuse_freed_pages
from curvtool.report import model as report
from curvtool.resume.folder import StateFolder
from curvtool.resume.identity import check_alike, fingerprint
from curvtool.resume.ledger import Keeping, KeptLedger, Watched
from curvtool.session import records
from curvtool.session.cache import Cache
from curvtool.session.load import Loaded, load
from curvtool.session.shared import KnownPairs, Shared
from curvtool.session.stage import Stage


@dataclasses.dataclass
class Outcome:
    """A report, what stopped the run early where something did, whether it can go on from where it was stopped, and the
    eigenpairs that were found, by the matrix."""

    report: report.Report
    stopped: BaseException | None = None
    is_resumable: bool = False
    pairs: dict[str, KnownPairs] = dataclasses.field(default_factory=dict)


def most_demanding(configs: Sequence[RunConfig]) -> RunConfig:
    """The run by which the problem of all is loaded: the first one that needs a loss, where one does."""
    return next((config for config in configs if config.analysis.needs_loss), configs[0])


def run(config: RunConfig, observer: Observer = SILENT, cluster: Solo | None = None, **options: Any) -> Outcome:
    """Loads the problem, runs the analysis and reports it; see `run_all`."""
    return run_all([config], observer, cluster, **options)


def run_all(
    configs: Sequence[RunConfig],
    observer: Observer = SILENT,
    cluster: Solo | None = None,
    keeping: Keeping | None = None,
    was_asked: Callable[[], bool] = lambda: False,
    loaded: Loaded | None = None,
    start: torch.Tensor | None = None,
) -> Outcome:
    """Loads the problem once, runs one analysis after the other and reports them.

    Later ones use what earlier ones found of the same matrix: kept graphs, and eigenpairs, which are deflated from its
    trace and placed exactly in its density. On several ranks every one of them calls it, and all get the same numbers.
    What stops an estimator on the way does not lose its result, nor those before: the report is then `partial` and
    `stopped` says why.

    Args:
        configs: a run each, which differ in their analysis alone.
        observer: hears progress.
        cluster: the ranks that share the work; this process alone if None.
        keeping: where its state is kept, if anywhere.
        was_asked: whether a signal came that asks for an end.
        loaded: the problem, where it was loaded before.
        start: vectors over the parameters to start the search for eigenpairs from, shape (k, size).

    Raises:
        CurvtoolError: before there was anything to report.
        KeyboardInterrupt: likewise.
    """
    started = records.now()
    cluster = cluster or Solo()
    loaded = loaded or load(most_demanding(configs), observer, cluster)
    kept = keeping is not None or cluster.size > 1
    facts = fingerprint(configs, loaded.problem, loaded.checkpoint_sha256) if kept else {}
    check_alike(cluster, facts)
    ledger: KeptLedger | None = None
    if kept:
        seconds = keeping.seconds if keeping else math.inf
        ledger = KeptLedger(observer.notice, observer.alarm, cluster, was_asked, seconds)
        observer = Watched(observer, ledger)
    try:
        if ledger is not None and keeping is not None:
            ledger.keep_in(StateFolder(keeping.path, cluster, facts), keeping.go_on)
        return _reported(configs, loaded, observer, cluster, ledger, start, started)
    finally:
        if ledger is not None:
            ledger.close()


def _reported(
    configs: Sequence[RunConfig],
    loaded: Loaded,
    observer: Observer,
    cluster: Solo,
    ledger: KeptLedger | None,
    start: torch.Tensor | None,
    started: str,
) -> Outcome:
    problem = loaded.problem
    if is_host(problem.device):
        reuse_freed_pages() if problem.sharded is None else return_large_blocks()
    reset_peak(problem.device)
    kind = SharedSamples if problem.sharded is None else SharedParameters
    shared = Shared(kind(problem, cluster).space, Cache.of(configs, loaded, cluster.size), start=start)
    stages: list[Stage] = []
    analyses: list[report.Analysis] = []
    stopped: BaseException | None = None
    failures: list[report.Warning] = []
    for config in configs:
        stage = Stage(config, loaded, observer, shared, cluster)
        if problem.dtype == torch.bfloat16:
            stage.warn("CT203", "bfloat16 products carry 8 bits: read the noise floor first")
        if config.analysis.needs_loss:  # norms of Jacobians are of the inputs, in evaluation mode
            stage.warnings += [report.Warning(code=code, message=told) for code, told in problem.cautions]
        try:
            analyses.append(_finished(stage, observer))
        except STOPPING as error:
            failure = cause_of(error)
            if len(configs) == 1 or (not analyses and not isinstance(failure, CurvtoolError)):
                raise failure from None
            stopped = stopped or failure
            failures.append(_stopped_early(failure, config.analysis.kind))
            if isinstance(failure, CurvtoolError) and not isinstance(failure, RankLost):
                continue  # the others may well be possible
            break
        stages.append(stage)
        if stage.stopped is not None:
            stopped = stage.stopped
            stage.warnings.append(_stopped_early(stopped))
            break
        if not analyses[-1].converged:
            told = registry.part(analyses[-1].kind, "facts").not_converged(analyses[-1], stage.dtype_name)
            stage.warnings.append(told)
    if not analyses and stopped is not None:
        raise stopped
    converged = all(analysis.converged for analysis in analyses)
    status: report.Status = "partial" if stopped is not None else "complete" if converged else "not_converged"
    whole = report.Report(
        status=status,
        problem=records.summary(stages),
        analyses=analyses,
        warnings=[*records.warnings_of(stages), *failures],
        provenance=records.provenance(stages, started),
    )
    if ledger is not None and stopped is None:
        ledger.finish()
    return Outcome(whole, stopped, ledger is not None and ledger.has_saved, shared.pairs)


def _finished(stage: Stage, observer: Observer) -> report.Analysis:
    """The analysis' record; from before the run was stopped where it was through then."""
    made: list[report.Analysis] = []

    name = getattr(stage.config.analysis, "operator", "")
    before = stage.shared.pairs.get(name)

    def make() -> dict[str, Any]:
        made.append(registry.part(stage.config.analysis.kind, "run").run(stage, stage.config.analysis))
        if stage.stopped is not None:  # its part of the result is not one to remember
            raise _NotFinished
        shared = stage.shared
        pairs = shared.pairs.get(name)
        return {
            "record": made[0].model_dump_json(),
            "warnings": [[warning.code, warning.message] for warning in stage.warnings],
            "checks": stage.checks,
            "numbers": [shared.loss_value, shared.grad_norm],
            "modes": stage.modes,
            "pairs": None if pairs is before else pairs,
        }

    try:
        facts = observer.ledger.remembered(stage.config.analysis.kind, None, make, stage.shared.space)
    except _NotFinished:
        return made[0]
    if made:
        return made[0]
    stage.warnings = [report.Warning(code=code, message=message) for code, message in facts["warnings"]]
    stage.checks, stage.modes = facts["checks"], facts["modes"]
    stage.shared.loss_value, stage.shared.grad_norm = stage.loss_value, stage.grad_norm = facts["numbers"]
    if facts["pairs"] is not None:
        stage.shared.pairs[name] = facts["pairs"]
    record: report.Analysis = TypeAdapter(report.Analysis).validate_json(facts["record"])
    return record


class _NotFinished(Exception):
    pass


def _stopped_early(cause: BaseException, before: str | None = None) -> report.Warning:
    reason = cause.message if isinstance(cause, CurvtoolError) else "interrupted"
    what = "the numbers are partial" if before is None else f"{before} gave nothing yet"
    return report.Warning(code="CT204", message=f"stopped early: {reason}; {what}")
