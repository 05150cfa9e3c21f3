"""A report as CSV or Markdown."""

from __future__ import annotations

from curvtool.render.analyses import csv_of, markdown_of
from curvtool.render.table_parts import csv_text
from curvtool.report.model import Report
from curvtool.report.numbers import numbers
from curvtool.words import counted


def to_csv(report: Report) -> str:
    """A row a number, at full precision: the analysis' own columns; of several analyses every number with its error."""
    if len(report.analyses) == 1:
        return csv_text(*csv_of(report.analyses[0]))
    rows = numbers(report)
    return csv_text(list(rows[0]) if rows else [], [list(row.values()) for row in rows])


def to_markdown(report: Report) -> str:
    """Tables in Markdown, with where the numbers come from."""
    lines: list[str] = []
    for analysis in report.analyses:
        lines += [*markdown_of(analysis), ""]
    problem, prov = report.problem, report.provenance
    lines.append(
        f"{problem.model}, {counted(problem.num_trainable, 'parameter')}, {counted(problem.num_samples, 'sample')}, "
        f"loss {problem.loss or 'none'}; {prov.dtype} on {prov.device}, seed {prov.seed}; "
        f"curvtool {prov.tool_version}, status {report.status}."
    )
    lines += [f"- {warning.code}: {warning.message}" for warning in report.warnings]
    return "\n".join(lines) + "\n"
