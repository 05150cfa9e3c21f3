"""Who shows which analysis: each module has `show` (terminal), `csv` (header, rows), `markdown` (lines), `charts`."""

from __future__ import annotations

from typing import Any

from curvtool.render import check, density, diag, eigs, jacnorm, trace, verify

RENDERERS: dict[str, Any] = {
    "eigs": eigs,
    "trace": trace,
    "density": density,
    "diag": diag,
    "jacnorm": jacnorm,
    "check": check,
    "verify": verify,
}
