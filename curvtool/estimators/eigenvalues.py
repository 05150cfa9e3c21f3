"""Extreme eigenvalues of a symmetric operator, each with an estimate of its error."""

from __future__ import annotations

from curvtool.errors import UsageError
from curvtool.estimators.by_lanczos import by_lanczos
from curvtool.estimators.by_power import by_power
from curvtool.estimators.eigenpairs import METHODS, EigenvaluesResult, Method
from curvtool.estimators.observer import SILENT, Observer
from curvtool.linalg.ritz import WHICH, Which
from curvtool.operators.base import LinearOperator


def eigenvalues(
    operator: LinearOperator,
    k: int = 5,
    *,
    which: Which | None = None,
    method: Method = "lanczos",
    rtol: float = 1e-3,
    max_passes: int = 300,
    max_basis: int | None = None,
    memory_budget: int = 2**32,
    seed: int = 0,
    observer: Observer = SILENT,
) -> EigenvaluesResult:
    """Extreme eigenvalues by Lanczos, or by deflated power iteration.

    Lanczos stops once the estimated error of every wanted eigenvalue, min(r, r^2/gap), is at most rtol |theta| at three
    successive products. That is an estimate: a pair skipped so far shows in no residual, and a multiple eigenvalue may
    be found once only. It closes with one product with a random combination of the wanted vectors, whose deviation from
    what the residuals foretell is added to them.

    Args:
        operator: the matrix.
        k: how many (at each end for `be`).
        which: `la` largest, `sa` smallest, `lm` largest in magnitude, `be` both ends; None: `la` for Lanczos, `lm` for
            power iteration, which can do no other.
        method: `lanczos` or `power`.
        rtol: relative error of each eigenvalue to reach; for power iteration the relative residual.
        max_passes: products after which the solver stops unconverged and says so.
        max_basis: basis vectors; chosen from the memory budget if None.
        memory_budget: bytes that the basis may take.
        seed: of the random start.
        observer: hears progress.

    Raises:
        UsageError: CT001, k or `which` makes no sense.
        Interrupted: stopped on the way; its `partial` is the result so far.
    """
    which = which or ("lm" if method == "power" else "la")
    _check_arguments(operator, k, which, method, rtol)
    if method == "power":
        return by_power(operator, k, rtol, max_passes, seed, observer)
    return by_lanczos(operator, k, which, rtol, max_passes, max_basis, memory_budget, seed, observer)


def _check_arguments(operator: LinearOperator, k: int, which: str, method: str, rtol: float) -> None:
    def refuse(what: str, expected: str, received: object, remedy: str) -> UsageError:
        return UsageError("CT001", what, expected=expected, received=str(received), remedy=remedy)

    if which not in WHICH:
        raise refuse(f"unknown end {which!r}", ", ".join(WHICH), which, "--which la")
    if method not in METHODS:
        raise refuse(f"unknown method {method!r}", ", ".join(METHODS), method, "--method lanczos")
    if method == "power" and which != "lm":
        raise refuse(
            f"power iteration cannot find {which!r}: it finds the largest magnitudes",
            "--which lm",
            which,
            "--method lanczos",
        )
    limit = operator.space.dim // (2 if which == "be" else 1)
    if not 1 <= k <= limit:
        raise refuse("no such number of eigenvalues", f"1 to {limit}", k, f"-k {min(max(k, 1), limit)}")
    if not 0 < rtol < 1:
        raise refuse("no such tolerance", "0 < rtol < 1", rtol, "--rtol 1e-3")
