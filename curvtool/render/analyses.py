"""Who shows which analysis: each module has `show` (terminal), `csv` (header, rows), `markdown` (lines), `charts`; some
have `notes` (what stands below the tables) and `tables` (more than one for a page)."""

from __future__ import annotations

from typing import Any

from curvtool.render import check, density, diag, eigs, jacnorm, trace, verify
from curvtool.render.charts import Gallery
from curvtool.render.tables import Listing
from curvtool.report.model import JacNorm


def galleries_of(analysis: Any) -> list[Gallery]:
    """Its images, where it has any."""
    return jacnorm.galleries(analysis) if isinstance(analysis, JacNorm) else []


def notes_of(analysis: Any) -> list[str]:
    """What stands below its tables."""
    notes = getattr(RENDERERS[analysis.kind], "notes", None)
    return [] if notes is None else list(notes(analysis))


def tables_of(analysis: Any) -> list[Listing]:
    """Its tables, each with a caption; that of its CSV where it has no others."""
    tables = getattr(RENDERERS[analysis.kind], "tables", None)
    return [("Numbers", *RENDERERS[analysis.kind].csv(analysis))] if tables is None else list(tables(analysis))


RENDERERS: dict[str, Any] = {
    "eigs": eigs,
    "trace": trace,
    "density": density,
    "diag": diag,
    "jacnorm": jacnorm,
    "check": check,
    "verify": verify,
}
