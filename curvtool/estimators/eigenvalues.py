"""Extreme eigenvalues of a symmetric operator, each with an estimate of its error."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import torch

from curvtool.errors import UsageError
from curvtool.estimators.accuracy.noise import noise_of
from curvtool.estimators.eigenpairs import METHODS, EigenvaluesResult
from curvtool.estimators.eigenvalues_by_lanczos import by_lanczos
from curvtool.estimators.eigenvalues_by_power import by_power
from curvtool.estimators.full_check import full_check, true_residuals
from curvtool.estimators.observer import SILENT, Observer
from curvtool.estimators.request import BASES, Request, storage_for
from curvtool.linalg.ritz import WHICH
from curvtool.operators.base import LinearOperator
from curvtool.vocabulary import Basis, Check, EigenvalueMethod, Which
from curvtool.words import counted

CHECKS: tuple[str, ...] = get_args(Check)


def eigenvalues(
    operator: LinearOperator,
    k: int = 5,
    *,
    which: Which | None = None,
    method: EigenvalueMethod = "lanczos",
    rtol: float = 1e-3,
    atol: float = 0.0,
    vector_rtol: float | None = None,
    max_passes: int = 300,
    max_basis: int | None = None,
    block_size: int = 1,
    basis: Basis = "auto",
    memory_budget: int = 2**32,
    seed: int = 0,
    start: torch.Tensor | None = None,
    deflated: torch.Tensor | None = None,
    check: Check = "fast",
    noise: float | None = None,
    independent_start: bool = False,
    observer: Observer = SILENT,
) -> EigenvaluesResult:
    """Extreme eigenvalues by Lanczos, or by deflated power iteration.

    Lanczos stops once the estimated error of every wanted eigenvalue, min(r, r^2/gap) and a quarter of r, is within
    rtol |theta| (or atol) at two successive products and at 0.08 of it at the last. The error it then states is r,
    which bounds the distance to some eigenvalue, and more where a neighbour may be hidden (`Eigenvalue.stated_error`).
    A pair skipped so far shows in no residual. A fresh random start in the complement of the basis then looks for
    missed pairs, with which the search goes on, and excludes others with a probability (`certificate`); power iteration
    and a bfloat16 basis make no such start. The search closes with one product with a random combination of the wanted
    vectors, whose deviation from what the residuals foretell is added to them (on several ranks with a product with
    each, from which the spread over the data comes too). A full check makes a product with each of them and looks for
    missed pairs by a fresh start in their complement.

    Args:
        operator: the matrix.
        k: how many (at each end for `be`).
        which: `la` largest, `sa` smallest, `lm` largest in magnitude, `be` both ends; None: `la` for Lanczos, `lm` for
            power iteration, which can do no other.
        method: `lanczos` or `power`.
        rtol: relative error of each eigenvalue to reach; for power iteration the relative residual.
        atol: error of an eigenvalue that is enough however small it is: at eigenvalues of zero no relative one is met.
        vector_rtol: error of each eigenvector (sine of its angle) to reach as well; None: whatever it is.
        max_passes: products after which the solver stops unconverged and says so.
        max_basis: basis vectors, 2k or more (4k for `be`) and k + 2; chosen from the memory budget if None.
        block_size: starting vectors of Lanczos; an eigenvalue is seen at most that many times.
        basis: where Lanczos keeps its vectors: on the `device`, on the `host`, or in `bfloat16`, in half the
            memory: the closing check then takes a product a pair, from which values and residuals come, and these are
            about 1e-3 ||A|| at best; `auto`: on the device, or on the host where the budget does not hold the least of
            them.
        memory_budget: bytes that the basis may take.
        seed: of the random start.
        start: vectors (n, P) to start from, as those of an earlier run; a random part is mixed in.
        deflated: orthonormal vectors (l, P), eigenvectors found before, in whose complement to look; a product each
            tells how good they are.
        check: `none`; or `fast` or `full` as said above. A full check stays within max_passes.
        noise: the relative error of a product, as measured; None: as the operator knows it. It enters every error,
            times the largest magnitude of the spectrum.
        independent_start: whether the start owes nothing to this seed (a gradient does not): the certificate then leans
            on its random part too.
        observer: hears progress.

    Raises:
        UsageError: CT001, k or `which` makes no sense.
        Interrupted: stopped on the way; its `partial` is the result so far.
    """
    which = which or ("lm" if method == "power" else "la")
    request = Request(
        k, which, rtol, atol, vector_rtol, max_passes, max_basis, block_size, memory_budget, seed, start, deflated,
        basis, independent_start=independent_start, noise=noise_of(operator, noise),
    )  # fmt: skip
    _check_arguments(operator, request, method, check)
    if method == "power":
        result = by_power(operator, k, request.tolerance, max_passes, seed, observer, request.noise)
    else:
        anew = storage_for(operator.space, request) == "bfloat16" or operator.space.cluster.size > 1
        search = request
        if check == "full":  # its own products are within the number allowed
            search = replace(request, max_passes=max(1, max_passes - request.num_wanted - 1))
        result = by_lanczos(operator, search, observer, close=check == "fast" and not anew, look=check == "fast")
        if check != "full" and anew:
            return true_residuals(operator, result, request, observer)
    return full_check(operator, result, request, observer) if check == "full" else result


def _check_arguments(operator: LinearOperator, request: Request, method: str, check: str) -> None:
    def refuse(what: str, expected: str, received: object, remedy: str) -> UsageError:
        return UsageError("CT001", what, expected=expected, received=str(received), remedy=remedy)

    k, which = request.k, request.which
    if which not in WHICH:
        raise refuse(f"unknown end {which!r}", ", ".join(WHICH), which, "--which la")
    if method not in METHODS:
        raise refuse(f"unknown method {method!r}", ", ".join(METHODS), method, "--method lanczos")
    if request.basis not in BASES:
        raise refuse(f"unknown place {request.basis!r} for the basis", ", ".join(BASES), request.basis, "--basis auto")
    if method == "power" and request.basis != "auto":
        raise refuse("power iteration has no basis to place", "Lanczos", method, "--method lanczos")
    if check not in CHECKS:
        raise refuse(f"unknown check {check!r}", ", ".join(CHECKS), check, "--check fast")
    if method == "power" and which != "lm":
        raise refuse(
            f"power iteration cannot find {which!r}: it finds the largest magnitudes",
            "--which lm",
            which,
            "--method lanczos",
        )
    if method == "power" and (request.start is not None or request.deflated is not None or request.block_size > 1):
        raise refuse("power iteration takes no start, known pairs or block", "Lanczos", method, "--method lanczos")
    free = operator.space.dim - (0 if request.deflated is None else len(request.deflated))
    limit = free // (2 if which == "be" else 1)
    if limit < 1:
        raise refuse(f"the matrix is too small for {which!r}", "a larger one", counted(free, "dimension"), "--which la")
    if not 1 <= k <= limit:
        raise refuse("no such number of eigenvalues", f"1 to {limit}", k, f"-k {min(max(k, 1), limit)}")
    for name, tolerance in (("rtol", request.rtol), ("vector-rtol", request.vector_rtol)):
        if tolerance is not None and not 0 < tolerance < 1:
            raise refuse("no such tolerance", f"0 < {name} < 1", tolerance, f"--{name} 1e-3")
    if not 0 <= request.atol < float("inf"):
        raise refuse("no such tolerance", "atol >= 0", request.atol, "--atol 1e-6")
    least = max(2 * request.num_wanted, request.num_wanted + 1 + request.block_size)
    if request.max_basis is not None and request.max_basis < min(least, free):
        raise refuse(
            "the basis is too small", f"{counted(least, 'vector')} or more", request.max_basis, f"--max-basis {least}"
        )
    if request.block_size < 1:
        raise refuse("no such block", "1 or more", request.block_size, "--block-size 1")
    for name, vectors in (("start", request.start), ("deflated", request.deflated)):
        if vectors is not None and (vectors.dim() != 2 or vectors.shape[1] != operator.space.size):
            expected = f"shape (n, {operator.space.size})"
            raise refuse(f"the {name} vectors do not fit the operator", expected, tuple(vectors.shape), "others")
