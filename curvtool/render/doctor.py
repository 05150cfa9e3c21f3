"""An installation as text for a terminal, and its operations as a page of the documentation."""

from __future__ import annotations

from collections import Counter

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from curvtool.render.numbers import bytes_text
from curvtool.report.model import Doctor, OperationVerdict
from curvtool.words import counted


def print_doctor(found: Doctor, console: Console, *, all_operations: bool = False) -> None:
    """Versions and devices, then what is wrong, then the operations that are not right."""
    there = [f"{name} {version}" for name, version in found.versions.items() if version is not None]
    missing = [name for name, version in found.versions.items() if version is None]
    console.print(", ".join(there), highlight=False)
    if missing:
        console.print(f"not installed: {', '.join(missing)}", style="dim", highlight=False)
    console.print(f"devices: {', '.join(found.devices)}", markup=False, highlight=False)
    for device, memory in found.memory.items():
        told = f"memory of {device}: {bytes_text(memory.budget)} for graphs and vectors; allocator {memory.allocator}"
        console.print(told, markup=False, highlight=False)
    on = [name for name, is_on in found.attention.items() if is_on]
    console.print(f"attention backends: {', '.join(on)}; products use math alone", highlight=False)
    console.print(f"a Hessian product with a known answer: off by {found.product_error:.1e}", highlight=False)
    for problem in found.problems:
        console.print(f"problem: {escape(problem)}", style="yellow", highlight=False)
    if not found.problems:
        console.print("no problem found", style="green")
    if found.operations is not None:
        _print_operations(found.operations, console, all_operations)


def _print_operations(operations: list[OperationVerdict], console: Console, all_operations: bool) -> None:
    shown = operations if all_operations else [o for o in operations if not _is_right(o)]
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("operation", overflow="fold")
    table.add_column("reverse twice")
    table.add_column("forward over reverse")
    for each in shown:
        table.add_row(escape(each.name), each.reverse, each.forward)
    console.print(table)
    console.print(_counts(operations), highlight=False)


def _is_right(operation: OperationVerdict) -> bool:
    return operation.reverse == operation.forward == "right"


def _counts(operations: list[OperationVerdict]) -> str:
    def told(verdicts: list[str]) -> str:
        return ", ".join(f"{count} {verdict}" for verdict, count in Counter(verdicts).most_common())

    return (
        f"{counted(len(operations), 'operation')}; reverse twice: {told([o.reverse for o in operations])}; "
        f"forward over reverse: {told([o.forward for o in operations])}"
    )


def operations_page(found: Doctor) -> str:
    """The operations that are not right both ways, as a page in Markdown."""
    assert found.operations is not None
    version = (found.versions["torch"] or "").partition("+")[0]
    lines = [
        "# Second derivatives of torch's operations",
        "",
        f"As `curvtool doctor --ops` found them with torch {version} on the CPU:",
        "Hessian products on the samples of torch's own tests, against central differences of gradients in float64.",
        "",
        f"{_counts(found.operations)}.",
        "",
        "Reverse mode twice is what every run uses unless a product by forward mode was seen to be the same on your",
        "model; a model whose products do not agree with differences of gradients is refused before the run.",
        "",
        "| operation | reverse twice | forward over reverse |",
        "| --- | --- | --- |",
        *(f"| `{o.name}` | {o.reverse} | {o.forward} |" for o in found.operations if not _is_right(o)),
        "",
        "All others are right both ways.",
    ]
    return "\n".join(lines) + "\n"
