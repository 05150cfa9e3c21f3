"""From results to the records of the report."""

from __future__ import annotations

import datetime
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from curvtool.config.schema import RunConfig
from curvtool.estimators.cost import Cost
from curvtool.report import model as report
from curvtool.session.provenance import environment
from curvtool.session.stage import Stage


def cost_record(cost: Cost, peak: int) -> report.Cost:
    """What an analysis cost, with the most memory in use."""
    return report.Cost(**asdict(cost), peak_bytes=peak)


def finite_degrees(degrees: float | None) -> tuple[float | None, str | None]:
    """Degrees of freedom as a report holds them, or None and why."""
    if degrees is None:
        return None, "an error needs two passes"
    if math.isinf(degrees):
        return None, "infinite: no probes took part, or they were all alike"
    return degrees, None


def warnings_of(stages: Sequence[Stage]) -> list[report.Warning]:
    """Those of all analyses, each once."""
    found: list[report.Warning] = []
    for stage in stages:
        found += [warning for warning in stage.warnings if warning not in found]
    return found


def summary(stages: Sequence[Stage]) -> report.ProblemSummary:
    """What was measured, and what was checked and repaired first, for the first analysis that takes the loss."""
    stage = next((each for each in stages if each.loss_value is not None), stages[0])
    loaded, problem, checks = stage.loaded, stage.problem, stage.checks
    assert checks is not None
    repairs = [*problem.repairs]
    has_loss = problem.loss is not None
    missing = dict.fromkeys(("weight", "loss", "reduction", "loss_value", "grad_norm"), "no loss takes part")
    missing = {} if has_loss else missing
    if problem.batch_norm is None:
        missing["batch_norm"] = "no module normalises by running statistics"
    if problem.statistics_batch is None:
        missing["statistics_batch"] = "no batch has statistics of its own"
    return report.ProblemSummary(
        model=loaded.model_name,
        num_params=problem.num_params,
        num_trainable=problem.num_trainable,
        num_samples=problem.num_samples,
        weight=problem.total_weight if has_loss else None,
        loss=problem.loss.name if problem.loss is not None else None,
        reduction=problem.reduction if has_loss else None,
        loss_value=stage.loss_value,
        grad_norm=stage.grad_norm,
        preflight=report.PreflightChecks(
            num_samples=checks.num_samples,
            symmetry=checks.symmetry,
            finite_difference=checks.finite_difference,
            noise_floor=checks.noise_floor,
            gradient_error=checks.gradient_error,
            repairs=repairs,
            unavailable=checks.unavailable,
        ),
        batch_norm=problem.batch_norm,
        statistics_batch=problem.statistics_batch,
        unavailable=missing,
    )


def settings_record(configs: Sequence[RunConfig]) -> dict[str, Any]:
    """The shared settings, and each analysis' own; several of a kind are numbered."""
    settings = {name: asdict(getattr(configs[-1], name)) for name in ("model", "data", "loss", "params", "compute")}
    kinds = [config.analysis.kind for config in configs]
    for number, config in enumerate(configs):
        before = kinds[:number].count(kinds[number])
        settings[kinds[number] + (f" {before + 1}" if before else "")] = asdict(config.analysis)
    return settings


def provenance(stages: Sequence[Stage], started: str) -> report.Provenance:
    """Where the numbers come from; how products were run is that of the last analysis."""
    stage = stages[-1]
    config, problem = stage.config, stage.problem
    facts = environment(problem.device)
    absent = {
        name: reason
        for name, reason in (
            ("cuda", "this torch is built without CUDA"), ("driver", "no CUDA device in use"),
            ("slurm_job_id", "not a Slurm job"), ("git_commit", "not in a git repository"),
            ("git_dirty", "not in a git repository"),
        )
        if facts[name] is None
    }  # fmt: skip
    return report.Provenance(
        **facts,
        **stage.modes,
        remembered=stage.shared.cache.used,
        argv=sys.argv[1:],
        config=settings_record([each.config for each in stages]),
        config_sources=config.sources,
        dtype=stage.dtype_name,
        tf32=problem.tf32,
        attention_backend="math",
        seed=config.compute.seed,
        parameters_include=config.params.include,
        parameters_exclude=config.params.exclude,
        checkpoint_sha256=stage.loaded.checkpoint_sha256,
        data_fingerprint=problem.data.fingerprint(),
        started=started,
        ended=now(),
        unavailable=absent,
    )


def now() -> str:
    """The time in UTC, ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
