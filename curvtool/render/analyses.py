"""Who shows which analysis: each module has `show` (terminal), `csv` (header, rows), `markdown` (lines), `charts`."""

from __future__ import annotations

from typing import Any

from curvtool.render import check, density, diag, eigs, jacnorm, trace, verify
from curvtool.render.charts import Gallery
from curvtool.report.model import JacNorm


def galleries_of(analysis: Any) -> list[Gallery]:
    """Its images, where it has any."""
    return jacnorm.galleries(analysis) if isinstance(analysis, JacNorm) else []


RENDERERS: dict[str, Any] = {
    "eigs": eigs,
    "trace": trace,
    "density": density,
    "diag": diag,
    "jacnorm": jacnorm,
    "check": check,
    "verify": verify,
}
