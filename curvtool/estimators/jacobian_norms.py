"""Frobenius and spectral norm of the input-output Jacobian of every example."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from curvtool.cluster.solo import Solo
from curvtool.errors import STOPPING, Interrupted, UsageError, cause_of
from curvtool.estimators.accuracy.norms import (
    NormEstimates,
    NormSummary,
    exact_norms,
    frobenius_norms,
    noise_of_norms,
    spectral_norms,
)
from curvtool.estimators.cost import Cost
from curvtool.estimators.jacobian_batches import NUM_PROBES, Batch, estimated_batch, exact_batch
from curvtool.estimators.jacobian_listing import exchanged, largest, noise_over_data, recompute_largest, settle_kinks
from curvtool.estimators.observer import SILENT, Observer
from curvtool.operators.jacobian import InputJacobian

NORMS = ("both", "frobenius", "spectral")
MAX_EXACT_OUTPUTS = 128  # backward passes of the whole data that an exact answer may take
MAX_EXACT_TOP = 1024  # likewise for the few examples that are listed


@dataclass(frozen=True)
class JacobianNormsResult:
    """Attributes:
    frobenius_estimates: ||J_i||_F of every example with its errors; None where it was not asked for.
    spectral_estimates: ||J_i||_2 likewise.
    linf_lower: a bound from below on max ||J_i v||_2 over |v_j| <= 1, shape (N,): reached by some v; None where it was
        not asked for, or rows were not computed.
    linf_upper: a bound from above.
    top: indices of the largest examples (by the spectral norm where there is one), descending.
    exact: whether no probe took part: all rows of every Jacobian were computed.
    top_exact: whether the norms of the examples in `top` were computed from all rows.
    num_recomputed: examples whose norms were computed from all rows after they were estimated.
    noise: relative error of a norm by rounding, part of every interval.
    noise_measured: the largest one seen in comparison with float64; None where nothing was compared.
    output_dim: C.
    input_dim: d.
    num_vjps: vector-Jacobian products of the whole data, fractions allowed.
    num_jvps: Jacobian-vector products likewise.
    converged: whether every spectral norm met its tolerance.
    cost: data passes and time (no Hessian products).
    """

    frobenius_estimates: NormEstimates | None
    spectral_estimates: NormEstimates | None
    linf_lower: np.ndarray | None
    linf_upper: np.ndarray | None
    top: tuple[int, ...]
    exact: bool
    top_exact: bool
    num_recomputed: int
    noise: float
    noise_measured: float | None
    output_dim: int
    input_dim: int
    num_vjps: float
    num_jvps: float
    converged: bool
    cost: Cost

    @property
    def frobenius(self) -> np.ndarray | None:
        """||J_i||_F of every example, shape (N,), float64."""
        return None if self.frobenius_estimates is None else self.frobenius_estimates.values

    @property
    def spectral(self) -> np.ndarray | None:
        """||J_i||_2 of every example, shape (N,), float64."""
        return None if self.spectral_estimates is None else self.spectral_estimates.values

    @property
    def frobenius_stderr(self) -> np.ndarray | None:
        """Standard error of each Frobenius norm over its probes, zero where recomputed; None where all are exact."""
        held = self.frobenius_estimates
        return None if held is None or self.exact else np.where(np.isnan(held.exact), held.stderr, 0.0)

    @property
    def frobenius_degrees(self) -> np.ndarray | None:
        """Its degrees of freedom (of chi-square), infinite where no probe took part."""
        held = self.frobenius_estimates
        return None if held is None or self.exact else np.where(np.isnan(held.exact), held.degrees, np.inf)

    @property
    def spectral_error(self) -> np.ndarray | None:
        """How far each spectral norm may lie above its value, with 99 % and rounding; None where all are exact."""
        ends = self.spectral_interval
        return None if ends is None or self.spectral is None or self.exact else ends[1] - self.spectral

    @property
    def frobenius_interval(self) -> np.ndarray | None:
        """95 % interval of each Frobenius norm, probes and rounding, shape (2, N); not symmetric."""
        return None if self.frobenius_estimates is None else self.frobenius_estimates.interval(self.noise)

    @property
    def spectral_interval(self) -> np.ndarray | None:
        """Interval of each spectral norm, iteration and rounding, shape (2, N)."""
        return None if self.spectral_estimates is None else self.spectral_estimates.interval(self.noise)

    @property
    def key(self) -> NormEstimates:
        """The norm that examples are listed by."""
        held = self.spectral_estimates or self.frobenius_estimates
        assert held is not None
        return held

    @property
    def top_rivals(self) -> int:
        """Examples beside `top` that may be larger than the smallest listed one, at 95 % for all of them together."""
        return len(self.key.rivals(self.top, self.noise))

    def summary(self, norm: str, rows: np.ndarray | None = None) -> NormSummary | None:
        """The distribution of a norm over the examples, or over these rows, with its errors; None if not asked for."""
        held: NormEstimates | None = getattr(self, f"{norm}_estimates")
        return None if held is None else held.summary(self.noise, rows)


def jacobian_norms(
    jacobian: InputJacobian,
    *,
    norm: str = "both",
    linf: bool = False,
    top: int = 10,
    max_exact_outputs: int = MAX_EXACT_OUTPUTS,
    max_recomputed: int | None = None,
    noise: float | None = None,
    seed: int = 0,
    observer: Observer = SILENT,
    cluster: Solo | None = None,
) -> JacobianNormsResult:
    """||J_i||_F and ||J_i||_2 of every example.

    With few outputs (or inputs) exactly: all C rows by one backward pass each (or all d columns), the spectral norm as
    the root of the largest eigenvalue of the Gram matrix J_i J_i^T (J_i^T J_i) in float64. With many: ||J||_2^2 by
    batched Lanczos on J J^T, with a bound that holds for nearly equal singular values too; ||J||_F^2 = its part in that
    Krylov space plus E ||J^T z||^2 over Gaussian probes z in the complement, with a chi-square interval. The examples
    with the largest upper ends are then computed from all rows, until the list of the largest is certain or the budget
    is spent.

    Args:
        jacobian: the operator.
        norm: `both`, `frobenius` or `spectral`.
        linf: bounds on the norm from l-infinity to l2 too, where all rows are computed (the norm itself is NP-hard).
        top: how many of the largest examples to list.
        max_exact_outputs: the largest C, or d, that is done exactly.
        max_recomputed: examples that may be computed from all rows to make the list certain; None: as many as cost what
            the estimates did, and at least 4 `top`.
        noise: relative error of a norm by rounding, as measured on a few examples; None: as float64 shows it for the
            listed ones and some over the data, else as the operator knows it.
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
    run = _Run(jacobian, norm, linf, top, max_exact_outputs, noise, seed, observer, cluster or Solo())
    try:
        run.estimate()
        run.recompute(max_recomputed)
        if noise is None:
            run.measure_noise()
        return run.result()
    except STOPPING as error:
        stop = cause_of(error)
        raise Interrupted(run.result() if run.batches else None, stop) from stop


class _Run:
    """The norms of the batches that are through, and since when, as something that can be put back."""

    def __init__(
        self,
        jacobian: InputJacobian,
        norm: str,
        linf: bool,
        top: int,
        max_exact_outputs: int,
        noise: float | None,
        seed: int,
        observer: Observer,
        cluster: Solo,
    ) -> None:
        self.jacobian, self.norm, self.linf, self.top = jacobian, norm, linf, top
        self.seed, self.observer, self.cluster = seed, observer, cluster
        self.eps = torch.finfo(jacobian.problem.dtype).eps
        self.noise = noise_of_norms(jacobian.noise if noise is None else noise, self.eps)
        self.measured: float | None = None
        self.smaller = min(jacobian.output_dim, jacobian.input_dim)
        self.exact = self.smaller <= max_exact_outputs
        self.batches: list[Batch] = []
        self.begin = time.perf_counter()
        self.estimates: dict[str, NormEstimates] = {}  # once all batches are through
        self.recomputed, self.vjps, self.jvps = 0, 0.0, 0.0

    def state(self) -> dict[str, Any]:
        return {"batches": [asdict(batch) for batch in self.batches], "seconds": time.perf_counter() - self.begin}

    def restore(self, state: dict[str, Any]) -> None:
        self.batches[:] = [Batch(**facts) for facts in state["batches"]]
        self.begin -= state["seconds"]

    def estimate(self) -> None:
        """All batches."""
        problem, cluster = self.jacobian.problem, self.cluster
        self.observer.begin("Jacobian norms", problem.num_samples)
        self.observer.ledger.resume("batches", None, self)
        ranges = problem.ranges(self.jacobian.batch_size)
        for start in range(len(self.batches), len(ranges), cluster.size):  # what is done are always the first ones
            turn = ranges[start : start + cluster.size]
            own = self._of_batch(turn[cluster.rank]) if cluster.rank < len(turn) else None
            found = exchanged(own, cluster)[: len(turn)]
            self.batches += found
            done = turn[-1].stop
            most = max(float(each.largest.max()) for each in found)
            self.observer.advance(done, f"largest in batch {most:.4g}", problem.num_samples - done)
        self.estimates = self._estimates()

    def _of_batch(self, rows: range) -> Batch:
        batch = (
            exact_batch(self.jacobian, rows, self.norm, self.linf)
            if self.exact
            else estimated_batch(self.jacobian, rows, self.norm, self.seed)
        )
        share = len(rows) / self.jacobian.problem.num_samples
        batch.num_vjps *= share
        batch.num_jvps *= share
        return batch

    def _estimates(self) -> dict[str, NormEstimates]:
        """By norm, with their errors."""
        found = {}
        if self.exact:
            for name in ("frobenius", "spectral"):
                values = self._joined(name)
                if values is not None:
                    found[name] = exact_norms(values)
            return found
        kept, rest, cosines, units = (self._joined(name) for name in ("kept", "rest", "cosines", "units"))
        if kept is not None and rest is not None and cosines is not None and units is not None:
            found["frobenius"] = frobenius_norms(kept, rest, cosines, NUM_PROBES[self.norm], units)
        value, error, reach = (self._joined(name) for name in ("spectral", "spectral_error", "spectral_reach"))
        if value is not None and error is not None and reach is not None:
            found["spectral"] = spectral_norms(value, error, reach)
        return found

    def _joined(self, name: str) -> np.ndarray | None:
        parts = [getattr(batch, name) for batch in self.batches]
        return np.concatenate(parts) if parts and parts[0] is not None else None

    def recompute(self, budget: int | None) -> None:
        """Makes the list certain, where examples can be computed from all rows."""
        if self.exact or self.smaller > MAX_EXACT_TOP or not self.top:
            return
        if budget is None:
            spent = sum(b.num_vjps + b.num_jvps for b in self.batches)
            budget = max(4 * self.top, int(spent * self.jacobian.problem.num_samples / self.smaller))

        def heard(count: int, candidates: int) -> None:
            self.observer.begin(f"the largest examples from all rows: {count} done, {candidates} candidates")

        self.recomputed, self.vjps, self.jvps = recompute_largest(
            self.jacobian, self.estimates, self.norm, self.top, budget, self.noise, self.cluster, heard
        )

    def measure_noise(self) -> None:
        """The noise as the data at hand show it."""
        is_double = self.jacobian.problem.dtype == torch.float64
        self.observer.begin("the listed examples " + ("under random rounding" if is_double else "in float64"))
        key = self.estimates.get("spectral", self.estimates.get("frobenius"))
        assert key is not None
        if self.exact and not is_double:
            self.vjps, self.jvps = settle_kinks(self.jacobian, self.estimates, self.norm)
        self.measured = noise_over_data(self.jacobian, self.estimates, self.norm, largest(key, self.top))
        if self.measured is not None:
            self.noise = noise_of_norms(self.measured, self.eps)

    def result(self) -> JacobianNormsResult:
        estimates = self.estimates or self._estimates()
        key = estimates.get("spectral", estimates.get("frobenius"))
        assert key is not None
        top = largest(key, self.top)
        num_vjps = sum(b.num_vjps for b in self.batches) + self.vjps
        num_jvps = sum(b.num_jvps for b in self.batches) + self.jvps
        whole = len(key.first) == self.jacobian.problem.num_samples
        return JacobianNormsResult(
            frobenius_estimates=estimates.get("frobenius"),
            spectral_estimates=estimates.get("spectral"),
            linf_lower=self._joined("linf_lower"),
            linf_upper=self._joined("linf_upper"),
            top=top,
            exact=self.exact,
            top_exact=self.exact or (bool(top) and not bool(np.isnan(key.exact[list(top)]).any())),
            num_recomputed=self.recomputed,
            noise=self.noise,
            noise_measured=self.measured,
            output_dim=self.jacobian.output_dim,
            input_dim=self.jacobian.input_dim,
            num_vjps=num_vjps,
            num_jvps=num_jvps,
            converged=all(b.converged for b in self.batches) and whole,
            cost=Cost(0.0, 0.0, 0.0, num_vjps + num_jvps, time.perf_counter() - self.begin),
        )
