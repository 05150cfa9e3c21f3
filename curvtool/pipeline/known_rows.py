"""The rows that a tracked run has from before: against the settings of now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from curvtool.config.analyses import EigsConfig
from curvtool.config.schema import RunConfig
from curvtool.pipeline.eigs import learning_rate, stability_of
from curvtool.pipeline.records import settings_record
from curvtool.report import model as report

_FREE = {"checkpoint", "lr", "batch_size"}  # numbers do not hang on them, or each row has its own


def restated(row: report.TrackRow, configs: Sequence[RunConfig]) -> report.TrackRow:
    """The row against the learning rate that is given now, which takes no product."""
    eigs = iter([config for config in configs if isinstance(config.analysis, EigsConfig)])
    analyses: list[report.Analysis] = []
    for each in row.analyses:
        config = next(eigs, None) if isinstance(each, report.Eigs) else None
        if isinstance(each, report.Eigs) and config is not None and Path(row.checkpoint).exists():
            assert isinstance(config.analysis, EigsConfig)
            lr = learning_rate(config.analysis, row.checkpoint, config.model.trust)
            stability = stability_of(lr, each.which, each.eigenvalues)
            told = {name: text for name, text in each.unavailable.items() if name != "stability"}
            if stability is None:
                told["stability"] = "no --lr" if lr is None else "needs the largest eigenvalue"
            each = each.model_copy(update={"stability": stability, "unavailable": told})
        analyses.append(each)
    return row.model_copy(update={"analyses": analyses})


def differing(rows: Iterable[report.TrackRow], configs: Sequence[RunConfig]) -> str:
    """Which settings are not those that the rows were made with."""
    before = next((row.provenance for row in rows if row.provenance is not None), None)
    if before is None:
        return "another checksum of the settings"
    now = settings_record(configs)
    free = _FREE - {"batch_size"} if configs[0].model.batch_norm == "batch" else _FREE
    told = [
        f"{section}.{name} = {was!r}, now {is_!r}"
        for section in sorted({*now, *before.config})
        for name in {**_table(before.config, section), **_table(now, section)}
        if (was := _table(before.config, section).get(name)) != (is_ := _table(now, section).get(name))
        and name not in free
    ]
    return "; ".join(told[:4]) or "other data, or other analyses"


def _table(config: Mapping[str, Any], section: str) -> Mapping[str, Any]:
    found = config.get(section)
    return found if isinstance(found, Mapping) else {}
