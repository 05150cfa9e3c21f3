"""How often `compare` tells apart runs of one matrix with other seeds, through their records; and of another matrix."""

import functools
from types import SimpleNamespace

import pytest
import torch
from pairs_of_runs import MOST_ALARMS, measured

from curvtool import MatrixOperator, diagonal, eigenvalues, trace
from curvtool.analyses.eigs.recording import eigenvalue_record
from curvtool.analyses.trace import run as pipeline
from curvtool.analyses.trace.settings import Settings as TraceSettings
from curvtool.report import numbers

SIZES = {"first": 24, "second": 12, "third": 4}
STAGE = SimpleNamespace(
    problem=SimpleNamespace(
        shapes={name: torch.Size([size]) for name, size in SIZES.items()},
        parameters=SIZES,
        layers=lambda: {name: [name] for name in SIZES},
        device=torch.device("cpu"),
    )
)


@functools.cache
def matrix(kind, extra=0.0):
    """Groups that add up to a matrix; `extra` is added to the trace."""
    generator = torch.Generator().manual_seed(3)
    size, num = sum(SIZES.values()), 3 if kind == "few groups" else 10
    decay = torch.arange(1, size + 1, dtype=torch.float64) ** -0.5
    terms = []
    for group in range(num):
        rows = torch.randn(6, size, generator=generator, dtype=torch.float64) * decay
        signs = torch.ones(6, dtype=torch.float64)
        if kind == "two-sided":
            signs[::3] = -1
        term = rows.T @ (signs[:, None] * rows)
        terms.append(term * (20.0 if kind == "dominating" and group == 2 else 1.0))
    terms[0] = terms[0] + extra / size * torch.eye(size, dtype=torch.float64)
    return MatrixOperator(terms)


def by_trace(method, operator, seed):
    """The trace and the layers', as a report holds them."""
    blocks = pipeline._blocks(STAGE.problem) if method == "hutchinson" else None
    result = trace(operator, method=method, rtol=0.1, max_passes=60, blocks=blocks, seed=seed)
    record = pipeline._record(STAGE, TraceSettings(), result)
    return {each.name: each.value for each in numbers.numbers_of_analysis(record, 1e-12)}


def by_diagonal(operator, seed):
    result = diagonal(operator, method="hutchinson", rtol=0.1, max_passes=30, seed=seed)
    return {"sum": numbers.estimate(result.sum, result.sum_stderr, result.degrees, result.arithmetic)}


def by_eigenvalues(operator, seed):
    pairs = eigenvalues(operator, 3, rtol=1e-3, seed=seed).eigenvalues
    records = [eigenvalue_record(pair) for pair in pairs]
    return {f"eigenvalue {i}": numbers.bound(each.value, each.error_bound) for i, each in enumerate(records, 1)}


METHODS = ("auto", "hutchinson", "deflated", "hutch++", "xtrace")
QUANTITIES = {
    **{f"trace by {method}": functools.partial(by_trace, method) for method in METHODS},
    "diagonal": by_diagonal,
    "eigenvalues": by_eigenvalues,
}  # fmt: skip


def measured_of(quantity, kind, num):
    return measured(functools.partial(QUANTITIES[quantity], matrix(kind)), num)


KINDS = ("decaying", "two-sided", "dominating", "few groups")


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_a_few_pairs(quantity):
    """20 pairs: five alarms of twenty come once in 400 such tests of one number."""
    for name, (alarms, power) in measured_of(quantity, "decaying", 20).items():
        assert alarms <= 0.25 and power >= 0.5, name


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("quantity", QUANTITIES)
def test_pairs_of_seeds(quantity, kind):
    for name, (alarms, power) in measured_of(quantity, kind, 300).items():
        print(f"{kind:12s} {quantity:22s} {name:14s} {100 * alarms:5.1f} % {100 * power:5.0f} %")
        assert alarms <= MOST_ALARMS and power >= 0.6, name
