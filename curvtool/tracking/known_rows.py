"""The rows that a tracked run has from before: against the settings of now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from curvtool import registry
from curvtool.config.schema import RunConfig
from curvtool.report import model as report
from curvtool.report.record import AnalysisRecord
from curvtool.session.records import settings_record

_FREE = {"checkpoint", "lr", "batch_size"}  # numbers do not depend on them, or each row has its own


def restated(row: report.TrackRow, configs: Sequence[RunConfig]) -> report.TrackRow:
    """The row as the settings of now state it, where that takes no product, as against another learning rate."""
    by_kind: dict[str, list[RunConfig]] = {}
    for config in configs:
        by_kind.setdefault(config.analysis.kind, []).append(config)
    analyses: list[AnalysisRecord] = []
    for each in row.analyses:
        own = by_kind.get(each.kind)
        restate = getattr(registry.part(each.kind, "run"), "restated", None)
        now = own.pop(0) if own else None
        if restate is not None and now is not None and Path(row.checkpoint).exists():
            each = restate(each, now, row.checkpoint)
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
