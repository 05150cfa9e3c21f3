"""The one place where the stages meet: configuration -> problem -> operator -> estimator -> report."""

from __future__ import annotations

import dataclasses

import torch

from curvtool.config.analyses import (
    CheckConfig,
    DensityConfig,
    DiagConfig,
    EigsConfig,
    JacnormConfig,
    TraceConfig,
    VerifyConfig,
)
from curvtool.config.schema import RunConfig
from curvtool.errors import CurvtoolError
from curvtool.estimators.observer import SILENT, Observer
from curvtool.operators.memory import reuse_freed_pages
from curvtool.pipeline import records
from curvtool.pipeline.check import run_check
from curvtool.pipeline.density import run_density
from curvtool.pipeline.diag import run_diag
from curvtool.pipeline.eigs import run_eigs
from curvtool.pipeline.jacnorm import run_jacnorm
from curvtool.pipeline.load import load
from curvtool.pipeline.stage import Stage
from curvtool.pipeline.trace import run_trace
from curvtool.pipeline.verify import run_verify
from curvtool.report import model as report


@dataclasses.dataclass
class Outcome:
    """A report, and what stopped the run early where something did."""

    report: report.Report
    stopped: BaseException | None = None


def run(config: RunConfig, observer: Observer = SILENT) -> Outcome:
    """Loads the problem, runs the analysis and reports it.

    What stops an estimator on the way does not lose its result: the report is then `partial` and `stopped` says why.

    Raises:
        CurvtoolError: before there was anything to report.
        KeyboardInterrupt: likewise.
    """
    started = records.now()
    stage = Stage(config, load(config, observer), observer)
    device = stage.problem.device
    if device.type == "cpu":
        reuse_freed_pages()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    if stage.problem.dtype == torch.bfloat16:
        stage.warn("CT203", "bfloat16 products carry 8 bits: read the noise floor first")
    analysis = _analyse(stage)
    if stage.stopped is not None:
        reason = stage.stopped.message if isinstance(stage.stopped, CurvtoolError) else "interrupted"
        stage.warn("CT204", f"stopped early: {reason}; the numbers are partial")
    elif not analysis.converged:
        stage.warnings.append(records.not_converged(analysis))
    stopped = stage.stopped is not None
    status: report.Status = "partial" if stopped else "complete" if analysis.converged else "not_converged"
    whole = report.Report(
        status=status,
        problem=records.summary(stage),
        analyses=[analysis],
        warnings=stage.warnings,
        provenance=records.provenance(stage, started),
    )
    return Outcome(whole, stage.stopped)


def _analyse(stage: Stage) -> report.Analysis:
    match stage.config.analysis:
        case EigsConfig() as analysis:
            return run_eigs(stage, analysis)
        case TraceConfig() as analysis:
            return run_trace(stage, analysis)
        case DensityConfig() as analysis:
            return run_density(stage, analysis)
        case DiagConfig() as analysis:
            return run_diag(stage, analysis)
        case CheckConfig() as analysis:
            return run_check(stage, analysis)
        case VerifyConfig() as analysis:
            return run_verify(stage, analysis)
        case JacnormConfig() as analysis:
            return run_jacnorm(stage, analysis)
