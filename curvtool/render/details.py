"""What a reader asks for with `-v`: how the numbers came about."""

from __future__ import annotations

from rich.console import Console

from curvtool.render.numbers import number, seconds_text
from curvtool.report.model import Report
from curvtool.words import counted


def print_details(report: Report, console: Console) -> None:
    """The preflight, the way products were run and what it was compared with, and where everything comes from."""
    for name, text in _details(report):
        console.print(f"{name}: {text}", style="dim", markup=False)


def _details(report: Report) -> list[tuple[str, str]]:
    checks, prov = report.problem.preflight, report.provenance
    measured = (("symmetry", checks.symmetry), ("differences of gradients", checks.finite_difference),
                ("noise floor", checks.noise_floor))  # fmt: skip
    compared = sorted(prov.timings.items(), key=lambda way: way[1])
    found = [
        ("preflight", ", ".join(f"{name} {number(value, 2)}" for name, value in measured if value is not None)),
        ("around every product", "; ".join(checks.repairs)),
        ("products", f"{prov.ad_mode}, operations {prov.operations}, batches of {prov.batch_size}"),
        ("timed on a few samples", ", ".join(f"{way} {seconds_text(seconds)}" for way, seconds in compared)),
        ("left out", "; ".join(f"{way}: {reason}" for way, reason in prov.left_out.items())),
        ("attention", prov.attention_backend),
        ("device", f"{prov.device_name}, {counted(prov.num_threads, 'thread')}, torch {prov.torch}"),
        ("seed", str(prov.seed)),
        ("checkpoint's sha256", prov.checkpoint_sha256 or ""),
        ("data's fingerprint", prov.data_fingerprint),
        ("git commit", f"{prov.git_commit}{', changed since' if prov.git_dirty else ''}" if prov.git_commit else ""),
    ]
    return [(name, text) for name, text in found if text]
