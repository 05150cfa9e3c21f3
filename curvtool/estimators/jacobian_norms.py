"""Frobenius and spectral norm of the input-output Jacobian of every example."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from curvtool.cluster.solo import Solo
from curvtool.errors import STOPPING, Interrupted, UsageError, cause_of
from curvtool.estimators.cost import Cost
from curvtool.estimators.observer import SILENT, Observer
from curvtool.linalg.batched_lanczos import largest_eigenvalues
from curvtool.linalg.space import VectorSpace
from curvtool.operators.jacobian import InputJacobian
from curvtool.operators.products import LinearizedFunction

NORMS = ("both", "frobenius", "spectral")
MAX_EXACT_OUTPUTS = 128  # backward passes of the whole data that an exact answer may take
MAX_EXACT_TOP = 1024  # likewise for the few examples that are listed
_NUM_PROBES = 16
_SPECTRAL_RTOL = 1e-4  # of the squared norm
_SPECTRAL_PRODUCTS = 60
_SIGN_STEPS = 6


@dataclass(frozen=True)
class JacobianNormsResult:
    """Attributes:
    frobenius: ||J_i||_F of every example, shape (N,), float64; None where it was not asked for.
    spectral: ||J_i||_2 likewise.
    frobenius_stderr: standard error of each Frobenius norm over its probes; None where exact.
    spectral_error: estimated error of each spectral norm (residual of the Lanczos iteration); None where exact.
    linf_lower: a bound from below on max ||J_i v||_2 over |v_j| <= 1, shape (N,): reached by some v; None where it was
        not asked for, or rows were not computed.
    linf_upper: a bound from above.
    top: indices of the largest examples (by the spectral norm where there is one), descending.
    exact: whether no probe took part: all rows of every Jacobian were computed.
    top_exact: whether the norms of the examples in `top` were recomputed from all rows.
    output_dim: C.
    input_dim: d.
    num_vjps: vector-Jacobian products of the whole data, fractions allowed.
    num_jvps: Jacobian-vector products likewise.
    converged: whether every spectral norm met its tolerance.
    cost: data passes and time (no Hessian products).
    """

    frobenius: np.ndarray | None
    spectral: np.ndarray | None
    frobenius_stderr: np.ndarray | None
    spectral_error: np.ndarray | None
    linf_lower: np.ndarray | None
    linf_upper: np.ndarray | None
    top: tuple[int, ...]
    exact: bool
    top_exact: bool
    output_dim: int
    input_dim: int
    num_vjps: float
    num_jvps: float
    converged: bool
    cost: Cost


@dataclass
class _Batch:
    """Norms of one batch of examples."""

    frobenius: np.ndarray | None = None
    spectral: np.ndarray | None = None
    frobenius_stderr: np.ndarray | None = None
    spectral_error: np.ndarray | None = None
    linf_lower: np.ndarray | None = None
    linf_upper: np.ndarray | None = None
    num_vjps: float = 0.0
    num_jvps: float = 0.0
    converged: bool = True


def jacobian_norms(
    jacobian: InputJacobian,
    *,
    norm: str = "both",
    linf: bool = False,
    top: int = 10,
    max_exact_outputs: int = MAX_EXACT_OUTPUTS,
    seed: int = 0,
    observer: Observer = SILENT,
    cluster: Solo | None = None,
) -> JacobianNormsResult:
    """||J_i||_F and ||J_i||_2 of every example.

    With few outputs (or inputs) exactly: all C rows by one backward pass each (or all d columns), the spectral norm as
    the root of the largest eigenvalue of the Gram matrix J_i J_i^T (J_i^T J_i) in float64. With many: ||J||_F^2 =
    E ||J^T z||^2 over 16 Rademacher probes with a standard error, and ||J||_2^2 by batched Lanczos on J J^T with the
    residual of each example. The examples listed as the largest are then recomputed exactly where that is affordable,
    since a largest estimate is biased up.

    Args:
        jacobian: the operator.
        norm: `both`, `frobenius` or `spectral`.
        linf: bounds on the norm from l-infinity to l2 too, where all rows are computed (the norm itself is NP-hard).
        top: how many of the largest examples to list.
        max_exact_outputs: the largest C, or d, that is done exactly.
        seed: of probes and starts.
        observer: hears progress.
        cluster: the ranks that take batches in turn; this process alone if None.

    Raises:
        UsageError: CT001, unknown norm or a negative number.
        Interrupted: stopped on the way; its `partial` has the examples done so far.
    """
    if norm not in NORMS:
        raise UsageError("CT001", f"unknown norm {norm!r}", expected=", ".join(NORMS), received=norm)
    if top < 0:
        raise UsageError("CT001", "no such number of examples", expected="--top 0 or more", received=str(top))
    begin = time.perf_counter()
    cluster = cluster or Solo()
    problem = jacobian.problem
    smaller = min(jacobian.output_dim, jacobian.input_dim)
    exact = smaller <= max_exact_outputs
    batches: list[_Batch] = []
    done = 0

    def result(top_exact: bool, listed: tuple[int, ...]) -> JacobianNormsResult:
        return JacobianNormsResult(
            frobenius=_joined(batches, "frobenius"),
            spectral=_joined(batches, "spectral"),
            frobenius_stderr=_joined(batches, "frobenius_stderr"),
            spectral_error=_joined(batches, "spectral_error"),
            linf_lower=_joined(batches, "linf_lower"),
            linf_upper=_joined(batches, "linf_upper"),
            top=listed,
            exact=exact,
            top_exact=top_exact,
            output_dim=jacobian.output_dim,
            input_dim=jacobian.input_dim,
            num_vjps=sum(b.num_vjps for b in batches),
            num_jvps=sum(b.num_jvps for b in batches),
            converged=all(b.converged for b in batches) and done == problem.num_samples,
            cost=Cost(0.0, 0.0, 0.0, sum(b.num_vjps + b.num_jvps for b in batches), time.perf_counter() - begin),
        )

    observer.begin("Jacobian norms", problem.num_samples)
    progress = _Progress(batches, begin)
    observer.resume("batches", None, progress)
    begin = progress.begin
    try:
        ranges = problem.ranges(jacobian.batch_size)
        done = ranges[len(batches) - 1].stop if batches else 0
        for start in range(len(batches), len(ranges), cluster.size):  # what is done are always the first ones
            turn = ranges[start : start + cluster.size]
            own = _of_batch(jacobian, turn[cluster.rank], norm, linf, exact, seed) if cluster.rank < len(turn) else None
            found = _exchanged(own, cluster)[: len(turn)]
            batches += found
            done = turn[-1].stop
            largest = max(float(v.max()) for b in found for v in (b.spectral, b.frobenius) if v is not None)
            observer.advance(done, f"largest in batch {largest:.4g}", problem.num_samples - done)
        whole = result(exact, ())
        listed = _largest(whole, top)
        if exact or smaller > MAX_EXACT_TOP or not listed:
            return result(exact, listed)
        _recompute(jacobian, batches, listed, norm, cluster)
        return result(True, _largest(result(True, ()), top, among=listed))
    except STOPPING as error:
        stop = cause_of(error)
        partial = result(exact, ()) if batches else None
        if partial is not None:
            partial = result(exact, _largest(partial, top))
        raise Interrupted(partial, stop) from stop


class _Progress:
    """The norms of the batches that are through, and since when, as something that can be put back."""

    def __init__(self, batches: list[_Batch], begin: float) -> None:
        self.batches, self.begin = batches, begin

    def state(self) -> dict[str, Any]:
        return {"batches": [asdict(batch) for batch in self.batches], "seconds": time.perf_counter() - self.begin}

    def restore(self, state: dict[str, Any]) -> None:
        self.batches[:] = [_Batch(**facts) for facts in state["batches"]]
        self.begin -= state["seconds"]


def _of_batch(jacobian: InputJacobian, rows: range, norm: str, linf: bool, exact: bool, seed: int) -> _Batch:
    batch = _exact(jacobian, rows, norm, linf) if exact else _estimated(jacobian, rows, norm, seed)
    share = len(rows) / jacobian.problem.num_samples
    batch.num_vjps *= share
    batch.num_jvps *= share
    return batch


def _exchanged(own: _Batch | None, cluster: Solo) -> list[_Batch]:
    """Every rank's batch; empty ones of those that had none."""
    if cluster.size == 1:
        return [own or _Batch()]
    told = None if own is None else {n: v.tolist() if isinstance(v, np.ndarray) else v for n, v in asdict(own).items()}
    return [_told(each) for each in cluster.gather_objects(told)]


def _told(facts: dict[str, Any] | None) -> _Batch:
    arrays: dict[str, Any] = {n: np.array(v) if isinstance(v, list) else v for n, v in (facts or {}).items()}
    return _Batch(**arrays)


def _exact(jacobian: InputJacobian, rows: range, norm: str, linf: bool = False) -> _Batch:
    by_rows = jacobian.output_dim <= jacobian.input_dim
    batch = _Batch(num_vjps=float(jacobian.output_dim)) if by_rows else _Batch(num_jvps=float(jacobian.input_dim))
    frobenius, spectral, bounds = [], [], []
    for linear, count in _linear_chunks(jacobian, rows):
        matrices = jacobian.dense_of(linear, count).double()
        gram = matrices @ matrices.mT if by_rows else matrices.mT @ matrices
        if linf:
            bounds.append(_linf_bounds(matrices, gram, by_rows))
        if norm != "spectral":
            frobenius.append(gram.diagonal(dim1=1, dim2=2).sum(1).sqrt())
        if norm != "frobenius":
            spectral.append(torch.linalg.eigvalsh(gram)[:, -1].clamp_min(0).sqrt())
    if bounds:
        batch.linf_lower, batch.linf_upper = torch.cat(bounds, dim=1).cpu().numpy()
    batch.frobenius = torch.cat(frobenius).cpu().numpy() if frobenius else None
    batch.spectral = torch.cat(spectral).cpu().numpy() if spectral else None
    return batch


def _linf_bounds(matrices: torch.Tensor, gram: torch.Tensor, by_rows: bool) -> torch.Tensor:
    """Bounds on max ||J v||_2 over |v_j| <= 1, shape (2, n).

    Below: v = sign(J^T J v) from the leading right singular vector, which never falls (Boyd 1974). Above: the least of
    sqrt(d) ||J||_2 and the root of the sum of the rows' squared l1 norms.
    """
    values, vectors = torch.linalg.eigh(gram)
    lead = vectors[:, :, -1:]
    direction = matrices.mT @ lead if by_rows else lead
    best = torch.zeros(len(matrices), dtype=matrices.dtype, device=matrices.device)
    for _ in range(_SIGN_STEPS):
        image = matrices @ torch.where(direction >= 0, 1.0, -1.0).to(matrices.dtype)
        best = torch.maximum(best, torch.linalg.vector_norm(image, dim=(1, 2)))
        direction = matrices.mT @ image
    by_spectrum = (values[:, -1].clamp_min(0) * matrices.shape[2]).sqrt()
    by_rows_norm = matrices.abs().sum(2).square().sum(1).sqrt()
    return torch.stack([best, torch.minimum(by_spectrum, by_rows_norm)])


def _linear_chunks(jacobian: InputJacobian, rows: range) -> Iterator[tuple[LinearizedFunction, int]]:
    """The batch cut so that all rows of a piece's Jacobians, and their float64 copy, stay within half the budget."""
    an_example = jacobian.output_dim * jacobian.input_dim * (jacobian.problem.dtype.itemsize + 16)
    size = max(1, min(len(rows), jacobian.memory_budget // 2 // an_example))
    for start in range(rows.start, rows.stop, size):
        piece = range(start, min(start + size, rows.stop))
        yield jacobian.linearize(piece), len(piece)


def _estimated(jacobian: InputJacobian, rows: range, norm: str, seed: int) -> _Batch:
    batch = _Batch()
    linear = jacobian.linearize(rows)
    dim = linear.output.shape[1]
    of_example = VectorSpace(dim, linear.output.dtype, linear.output.device)
    with jacobian.problem.context(len(rows)):
        if norm != "spectral":
            squares = []
            for probe in range(_NUM_PROBES):
                signs = of_example.signs(seed, 5, probe, rows=rows)
                squares.append(linear.vjp(signs).double().square().sum(1))
            batch.num_vjps += _NUM_PROBES
            drawn = torch.stack(squares).cpu().numpy()
            mean, error = drawn.mean(0), drawn.std(0, ddof=1) / _NUM_PROBES**0.5
            batch.frobenius = np.sqrt(mean)
            batch.frobenius_stderr = error / (2 * np.maximum(batch.frobenius, 1e-300))  # the delta rule
        if norm != "frobenius":
            found = largest_eigenvalues(
                lambda u: linear.jvp(linear.vjp(u)),
                of_example.normals(seed, 6, rows=rows),
                rtol=_SPECTRAL_RTOL,
                max_products=_SPECTRAL_PRODUCTS,
            )
            batch.spectral = found.values.sqrt().numpy()
            # |sigma^2 - theta| <= r gives |sigma - sqrt(theta)| <= r / sqrt(theta)
            batch.spectral_error = (found.residuals / found.values.sqrt().clamp_min(1e-300)).numpy()
            batch.num_vjps += found.num_products
            batch.num_jvps += found.num_products
            batch.converged = bool(found.converged.all())
    return batch


def _joined(batches: list[_Batch], name: str) -> np.ndarray | None:
    parts = [getattr(batch, name) for batch in batches]
    return np.concatenate(parts) if parts and parts[0] is not None else None


def _largest(result: JacobianNormsResult, top: int, among: tuple[int, ...] | None = None) -> tuple[int, ...]:
    key = result.spectral if result.spectral is not None else result.frobenius
    assert key is not None
    indices = np.arange(len(key)) if among is None else np.array(among, dtype=int)
    order = indices[np.argsort(-key[indices], kind="stable")][:top]
    return tuple(int(i) for i in order)


def _recompute(
    jacobian: InputJacobian, batches: list[_Batch], listed: tuple[int, ...], norm: str, cluster: Solo
) -> None:
    """The exact norms of the listed examples, put in the place of their estimates; the ranks take them in turn."""
    found: list[_Batch] = []
    for start in range(0, len(listed), cluster.size):
        turn = listed[start : start + cluster.size]
        place = turn[cluster.rank] if cluster.rank < len(turn) else None
        own = None if place is None else _exact(jacobian, range(place, place + 1), norm)
        found += _exchanged(own, cluster)[: len(turn)]
    for index, exact in zip(listed, found, strict=True):
        offset = index
        for batch in batches:
            held = batch.spectral if batch.spectral is not None else batch.frobenius
            assert held is not None
            if offset < len(held):
                break
            offset -= len(held)
        for values, errors, new in (
            (batch.frobenius, batch.frobenius_stderr, exact.frobenius),
            (batch.spectral, batch.spectral_error, exact.spectral),
        ):
            if values is not None and errors is not None and new is not None:
                values[offset], errors[offset] = new[0], 0.0
        batch.num_vjps += exact.num_vjps / jacobian.problem.num_samples
        batch.num_jvps += exact.num_jvps / jacobian.problem.num_samples
