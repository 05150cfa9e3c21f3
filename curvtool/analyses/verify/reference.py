"""What other ways give for the same problem: the dense matrix, and PyHessian."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from curvtool.device import is_cuda
from curvtool.errors import UsageError
from curvtool.operators.curvature import CurvatureOperator
from curvtool.problem.as_module import ProblemModule, mean_loss
from curvtool.problem.problem import Problem

WHOLE_BATCH = 2048  # samples that PyHessian takes at once


@dataclass(frozen=True)
class Reference:
    """Attributes:
    tool: `dense` or `pyhessian`.
    eigenvalues: the largest ones, descending.
    trace: the trace.
    num_hvps: products with the whole operator.
    seconds: wall time.
    notes: what to know of it.
    """

    tool: str
    eigenvalues: list[float]
    trace: float
    num_hvps: float
    seconds: float
    notes: list[str] = field(default_factory=list)


def by_dense(operator: CurvatureOperator, k: int) -> Reference:
    """All eigenvalues of the materialised matrix, symmetrised, by LAPACK in float64."""
    begin, products = time.perf_counter(), operator.num_products
    matrix = operator.materialize(max_bytes=2**33).double().cpu()
    values = torch.linalg.eigvalsh((matrix + matrix.T) / 2)
    return Reference(
        "dense",
        values.flip(0)[:k].tolist(),
        float(matrix.trace()),
        operator.num_products - products,
        time.perf_counter() - begin,
    )


def by_pyhessian(problem: Problem, batch_size: int, k: int, seed: int) -> Reference:
    """PyHessian's power iteration and Hutchinson trace with its own defaults (maxIter 100, tol 1e-3).

    Raises:
        UsageError: CT001, it is not installed.
    """
    try:
        from pyhessian import hessian
    except ImportError as error:
        raise UsageError(
            "CT001",
            "PyHessian is not installed",
            expected="the extra `reference`",
            received=str(error),
            remedy="pip install 'curvtool[reference]'; or --tools dense",
        ) from error
    notes = []
    module, criterion = ProblemModule(problem), mean_loss(problem)
    whole = problem.num_samples <= (problem.statistics_batch or WHOLE_BATCH)
    rows = [range(problem.num_samples)] if whole else problem.ranges(batch_size)
    batches = [problem.batch(r) for r in rows]
    ratios = [problem.weight_of(r) / len(r) for r in rows]
    if max(ratios) - min(ratios) > 1e-12 * max(ratios):
        notes.append("it weights batches by their samples, where the loss counts other weights: another matrix")
    calls = [0]
    begin = time.perf_counter()
    data: dict[str, Any] = {"data": batches[0]} if whole else {"dataloader": batches}
    with problem.context(len(rows[0])), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of reference cycles, which end with this function
        torch.manual_seed(seed)
        made = hessian(module, criterion, cuda=is_cuda(problem.device), **data)
        _count(made, calls, whole)
        values, _ = made.eigenvalues(top_n=k)
        samples = made.trace()
    return Reference(
        "pyhessian",
        [float(v) for v in values],
        float(sum(float(s) for s in samples) / len(samples)),
        float(calls[0]),
        time.perf_counter() - begin,
        notes,
    )


def _count(made: Any, calls: list[int], whole: bool) -> None:
    """Counts its products: a function of its module for one batch, a method for several."""

    def counted(product: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any) -> Any:
            calls[0] += 1
            return product(*arguments)

        wrapped.__wrapped__ = product  # type: ignore[attr-defined]
        return wrapped

    if whole:
        names = type(made).eigenvalues.__globals__
        product = names["hessian_vector_product"]
        names["hessian_vector_product"] = counted(getattr(product, "__wrapped__", product))
    else:
        made.dataloader_hv_product = counted(made.dataloader_hv_product)
