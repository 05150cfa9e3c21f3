"""A report as CSV or Markdown."""

from __future__ import annotations

import csv
import io
from typing import Any

from curvtool.render.numbers import number, with_error
from curvtool.report.model import Analysis, Eigs, JacNorm, Report, Trace


def to_csv(report: Report) -> str:
    """A row a number, at full precision; the columns depend on the analysis."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    for analysis in report.analyses:
        header, rows = _rows(analysis)
        writer.writerow(header)
        writer.writerows(rows)
    return buffer.getvalue()


def _rows(analysis: Analysis) -> tuple[list[str], list[list[Any]]]:
    if isinstance(analysis, Eigs):
        header = ["index", "eigenvalue", "error_bound", "bound_kind", "residual_norm", "data_stderr", "converged"]
        rows = [
            [i, repr(e.value), repr(e.error_bound), e.bound_kind, repr(e.residual_norm), e.data_stderr, e.converged]
            for i, e in enumerate(analysis.eigenvalues)
        ]
        rows += [
            [name, repr(e.value), repr(e.error_bound), e.bound_kind, "", "", e.converged]
            for name, e in (analysis.per_layer or {}).items()
        ]
        return header, rows
    if isinstance(analysis, Trace):
        low, high = analysis.ci95 or ("", "")
        return ["trace", "stderr", "ci95_low", "ci95_high", "num_passes", "converged"], [
            [analysis.value, analysis.stderr, low, high, analysis.num_passes, analysis.converged]
        ]
    names = ["mean", "std", "min", "median", "p95", "max"]
    kept = [(n, s) for n, s in (("spectral", analysis.spectral), ("frobenius", analysis.frobenius)) if s is not None]
    return ["norm", *names], [[name, *(getattr(summary, n) for n in names)] for name, summary in kept]


def to_markdown(report: Report) -> str:
    """Tables in Markdown, with where the numbers come from."""
    lines: list[str] = []
    for analysis in report.analyses:
        if isinstance(analysis, Eigs):
            lines += _table(
                ["#", "eigenvalue", "error (est.)", "kind", "converged"],
                [
                    [
                        i,
                        with_error(e.value, e.error_bound),
                        number(e.error_bound, 2),
                        e.bound_kind,
                        "yes" if e.converged else "no",
                    ]
                    for i, e in enumerate(analysis.eigenvalues, 1)
                ],
            )
            if analysis.per_layer:
                rows = [[name, with_error(e.value, e.error_bound)] for name, e in analysis.per_layer.items()]
                lines += ["", *_table(["layer", "eigenvalue"], rows)]
        elif isinstance(analysis, Trace):
            interval = "-" if analysis.ci95 is None else f"{analysis.ci95[0]:.5g} to {analysis.ci95[1]:.5g}"
            lines += _table(
                ["trace", "95 % interval", "standard error"],
                [[number(analysis.value, 5), interval, number(analysis.stderr, 2)]],
            )
        else:
            lines += _jacnorm_tables(analysis)
        lines.append("")
    problem, prov = report.problem, report.provenance
    lines.append(
        f"{problem.model}, {problem.num_trainable:,} parameters, {problem.num_samples:,} samples, "
        f"loss {problem.loss or 'none'}; {prov.dtype} on {prov.device}, seed {prov.seed}; "
        f"curvtool {prov.tool_version}, status {report.status}."
    )
    lines += [f"- {warning.code}: {warning.message}" for warning in report.warnings]
    return "\n".join(lines) + "\n"


def _jacnorm_tables(jac: JacNorm) -> list[str]:
    header, rows = _rows(jac)
    lines = _table(header, [[row[0], *(number(float(str(v)), 4) for v in row[1:])] for row in rows])
    if jac.top:
        lines += [
            "",
            *_table(
                ["row", "spectral", "Frobenius"],
                [[e.index, number(e.spectral), number(e.frobenius)] for e in jac.top],
            ),
        ]
    return lines


def _table(header: list[str], rows: list[list[Any]]) -> list[str]:
    ruled = ["---:"] * len(header)
    return ["| " + " | ".join(str(cell) for cell in row) + " |" for row in [header, ruled, *rows]]
