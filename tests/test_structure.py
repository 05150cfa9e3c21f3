"""The house stays readable: what has grown beyond its measure is in a list, with the reason, or is cut."""

import ast
from pathlib import Path

import pytest

import curvtool

CODE = Path(curvtool.__file__).parent
MOST_LINES, MOST_IN_A_FUNCTION, MOST_METHODS = 300, 60, 15  # a function's docstring does not count
FILES = {
    "analyses/eigs/show.py": "verdict, table, list, chart and page of the richest record, one after the other",
    "estimators/trace_by_probes.py": "one search: a pass and its looks share their sums",
    "estimators/full_check.py": "likewise",
    "estimators/jacobian_norms.py": "likewise, and the result's own questions",
    "estimators/trace.py": "five methods behind one call, which choose between each other",
    "linalg/lanczos.py": "the thick-restart recurrence with its sources, cut nowhere without passing its state around",
    "operators/curvature.py": "what all matrices over the parameters share",
    "operators/execution.py": "how a batch's product is run",
    "operators/noise.py": "every way that rounding is looked at",
    "problem/problem.py": "model, data and loss, and what they are asked for",
    "resume/ledger.py": "what a run remembers, and the observer that has it look",
}
FUNCTIONS = {
    "operators/preflight.py preflight_curvature": "measurements one after the other, each of which may fail",
}
CLASSES = {
    "linalg/lanczos.py Lanczos": "the recurrence's steps and what is asked of its state",
    "linalg/space.py VectorSpace": "every inner product and every cut over ranks goes through it",
    "operators/curvature.py CurvatureOperator": "the interface of an operator, and of one with a gradient",
    "operators/execution.py Execution": "how a batch's product is run",
    "problem/problem.py Problem": "all that the operators ask of a model with its data",
}
SOURCES = {str(path.relative_to(CODE)): path.read_text() for path in sorted(CODE.rglob("*.py"))}
TREES = {name: ast.parse(text) for name, text in SOURCES.items()}


def length(function):
    """Its lines without the docstring's."""
    lines = function.end_lineno - function.lineno + 1
    first = function.body[0]
    told = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    return lines - (first.end_lineno - first.lineno + 1 if told else 0)


def nodes(kind):
    return [(f"{name} {node.name}", node) for name, tree in TREES.items() for node in ast.walk(tree)
            if isinstance(node, kind)]  # fmt: skip


def methods(node):
    return {each.name for each in node.body if isinstance(each, ast.FunctionDef) and not each.name.startswith("_")}


@pytest.mark.parametrize(
    ("known", "found"),
    [
        (FILES, {name for name, text in SOURCES.items() if len(text.splitlines()) > MOST_LINES}),
        (FUNCTIONS, {name for name, each in nodes(ast.FunctionDef) if length(each) > MOST_IN_A_FUNCTION}),
        (CLASSES, {name for name, each in nodes(ast.ClassDef) if len(methods(each)) > MOST_METHODS}),
    ],
    ids=["files", "functions", "classes"],
)
def test_what_has_grown_is_known(known, found):
    assert found - set(known) == set(), "cut it, or say why it stays whole"
    assert set(known) - found == set(), "it has shrunk: take it off the list"
