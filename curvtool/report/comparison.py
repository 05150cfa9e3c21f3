"""Reports side by side: what differs in their settings and in their values, and whether by more than the errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from curvtool.errors import UsageError
from curvtool.report.difference import (
    ComparedQuantity,
    adjust,
    difference_of,
    look_for_missed,
    other_threshold,
)
from curvtool.report.model import Report
from curvtool.report.numbers import Number, numbers_of
from curvtool.report.record import Record

# what a number means depends on these; another value of them makes it another quantity
_MEANING = ("loss", "reduction", "parameters", "loss options", "weight decay", "BatchNorm")


class Comparison(Record):
    """Two or more reports; the first one is what the others are compared with."""

    schema_version: Literal["1.0"] = "1.0"
    names: list[str]
    settings: dict[str, list[str]] = Field(description="what differs, by name: a value a report")
    quantities: list[ComparedQuantity]
    not_compared: list[str] = Field(description="what is not the same quantity, and why")
    same_data: bool


def compare(reports: Sequence[Report], names: Sequence[str]) -> Comparison:
    """The first report beside the others.

    Numbers with bounds differ where the bounds do not meet; eigenvalues of a rank only where no eigenvalue that one of
    the lists lacks explains it (`may_be_the_same`). Between estimates from random probes the difference, less
    what rounding may add to either, is tested with Student's t and both sides' degrees of freedom (Welch 1947);
    intervals likewise, by the sides that face each other. The level is 5 % for all such tests together (Holm 1979).

    Args:
        reports: two or more.
        names: what each is called.

    Raises:
        UsageError: CT072, fewer than two, or nothing in them is the same quantity.
    """
    if len(reports) < 2:
        raise UsageError(
            "CT072",
            "a comparison takes two reports",
            expected="two or more",
            received=str(len(reports)),
            remedy="curvtool compare a.json b.json",
        )
    numbers = [list(numbers_of(report)) for report in reports]
    found = [{(n.analysis, n.name): n.value for n in each} for each in numbers]
    apart = [_other_meaning(reports[0], other) for other in reports[1:]]
    refused = [
        f"{name}: {reason}, so its numbers are of another quantity than {names[0]}'s"
        for name, reason in zip(names[1:], apart, strict=True)
        if reason
    ]
    keys = list(dict.fromkeys((n.analysis, n.name) for each in numbers for n in each))
    quantities = []
    for key in keys:
        values = [each.get(key) for each in found]
        first = values[0]
        differences = [
            difference_of(first, other) if first is not None and other is not None and not reason else None
            for other, reason in zip(values[1:], apart, strict=True)
        ]
        for place, other in enumerate(values[1:]):
            if differences[place] is not None and first is not None and other is not None:
                reason = other_threshold(first, other)
                if reason:
                    differences[place] = None
                    refused.append(f"{key[0]}, {key[1]}: {reason} in {names[0]} and {names[place + 1]}")
        quantities.append(ComparedQuantity(analysis=key[0], name=key[1], values=values, differences=differences))
    look_for_missed(quantities)
    shared = [q for q in quantities if any(d is not None for d in q.differences)]
    analyses = dict.fromkeys(q.analysis for q in quantities if q not in shared and q.analysis != "problem")
    refused += [
        f"{analysis}: in {', '.join(_having(analysis, numbers, names))} alone" for analysis in analyses
        if analysis not in {q.analysis for q in shared}
    ]  # fmt: skip
    for analysis in {q.analysis: None for q in shared}:  # as fewer eigenvalues were asked for in one
        rest = [q for q in quantities if q.analysis == analysis and any(v is None for v in q.values)]
        refused += [f"{analysis}, {q.name}: in {', '.join(_with(q, names))} alone" for q in rest]
    if not any(q.analysis != "problem" for q in shared):
        raise UsageError(
            "CT072",
            "these reports have no quantity in common",
            expected="the same analysis of the same matrix, loss and parameters",
            received="; ".join(refused)[:300] or "no analyses",
            remedy="run both with the same command, but for the checkpoint",
        )
    adjust([d for q in shared for d in q.differences if d is not None])
    return Comparison(
        names=list(names),
        settings=_settings_apart(reports),
        quantities=shared,
        not_compared=refused,
        same_data=len({report.provenance.data_fingerprint for report in reports}) == 1,
    )


def _with(quantity: ComparedQuantity, names: Sequence[str]) -> list[str]:
    return [name for name, value in zip(names, quantity.values, strict=True) if value is not None]


def _having(analysis: str, numbers: Sequence[Sequence[Number]], names: Sequence[str]) -> list[str]:
    return [name for name, each in zip(names, numbers, strict=True) if any(n.analysis == analysis for n in each)]


def _other_meaning(first: Report, other: Report) -> str | None:
    """In words, what makes the other's numbers another quantity; None where nothing does."""
    one, two = _meaning(first), _meaning(other)
    for name in _MEANING:
        if one[name] != two[name]:
            return f"{name} {two[name]} instead of {one[name]}"
    return None


def _meaning(report: Report) -> dict[str, str]:
    prov = report.provenance
    chosen = f"{', '.join(prov.parameters_include) or 'all'}"
    if prov.parameters_exclude:
        chosen += f" without {', '.join(prov.parameters_exclude)}"
    loss = prov.config.get("loss", {})
    loss = loss if isinstance(loss, dict) else {}
    batch = report.problem.statistics_batch
    return {
        "loss": str(report.problem.loss),
        "reduction": str(report.problem.reduction),
        "parameters": chosen,
        "loss options": str(loss.get("options") or "none"),
        "weight decay": str(loss.get("weight_decay") or 0),
        "BatchNorm": f"in batches of {batch}" if batch is not None else "in evaluation mode",
    }


def _settings_apart(reports: Sequence[Report]) -> dict[str, list[str]]:
    """Facts that are not the same in all reports."""
    found = [_facts(report) for report in reports]
    names = dict.fromkeys(name for each in found for name in each)
    table = {name: [each.get(name, "-") for each in found] for name in names}
    return {name: values for name, values in table.items() if len(set(values)) > 1}


def _facts(report: Report) -> dict[str, str]:
    problem, prov = report.problem, report.provenance
    told: dict[str, Any] = {
        "model": problem.model,
        "checkpoint (sha256)": (prov.checkpoint_sha256 or "-")[:12],
        "data (sha256)": prov.data_fingerprint[:12],
        "parameters": problem.num_trainable,
        "samples": problem.num_samples,
        "status": report.status,
        "precision": prov.dtype,
        "device": prov.device_name,
        "curvtool": prov.tool_version,
        "torch": prov.torch,
    }
    for section, values in prov.config.items():
        if isinstance(values, dict):
            told |= {f"{section}.{name}": value for name, value in values.items()}
    return {name: str(value) for name, value in told.items()}
