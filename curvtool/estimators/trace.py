"""The trace of a symmetric operator, with a confidence interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch

from curvtool.errors import STOPPING, Interrupted, UsageError, cause_of
from curvtool.estimators.accuracy.noise import NOISE_OF_TRACES, least_of, noise_of
from curvtool.estimators.cost import Cost, Meter
from curvtool.estimators.kept_steps import KeptSteps
from curvtool.estimators.known_space import KnownSpace, known_space
from curvtool.estimators.observer import SILENT, Observer
from curvtool.estimators.trace_by_probes import FEWEST_PASSES, Blocks, BlockTrace, ProbeSearch
from curvtool.estimators.xtrace import XTrace
from curvtool.linalg.intervals import Interval, look_error
from curvtool.linalg.usable import require_usable
from curvtool.operators.base import LinearOperator
from curvtool.vocabulary import TraceChoice, TraceMethod
from curvtool.words import counted

METHODS: tuple[str, ...] = get_args(TraceChoice)
_RANK = 20
_PRICE = {"deflated": 1, "hutch++": 2}  # products a vector of the known space
_EXACT_AT_ONCE = 3  # products; a pilot would take as many
_LEAST_RANK = 4  # below it a known space does not pay


@dataclass(frozen=True)
class TraceResult:
    """Attributes:
    value: the estimate of tr A.
    stderr: its standard error over the probes; 0 where every diagonal entry was computed.
    degrees: degrees of freedom of that; infinite where nothing random is left, None where there is none.
    arithmetic: what rounding may add, a part of the interval's half width.
    scale: an estimate of the matrix's Frobenius norm, or of the sum of the groups'.
    ci95: the 95 % interval, valid though the run stopped itself; None where fewer than two passes were made.
    method: how it was done at last.
    reason: why, in words.
    rank: vectors of the space whose part is known exactly.
    num_passes: probes of each term; for `xtrace` probes of the whole, for `exact` products or rows.
    num_terms: terms with a probe of their own in every pass.
    converged: whether half of the interval's width is at most rtol |value|.
    blocks: the traces of the diagonal blocks that were asked for, by name.
    cost: products (a pass counts as one) and time.
    history: passes of the last probes made, the estimate from them and its standard error, as the search went on.
    """

    value: float
    stderr: float | None
    degrees: float | None
    arithmetic: float
    scale: float
    ci95: tuple[float, float] | None
    method: TraceMethod
    reason: str
    rank: int
    num_passes: int
    num_terms: int
    converged: bool
    blocks: dict[str, BlockTrace] | None
    cost: Cost
    history: tuple[tuple[float, float, float | None], ...] = ()


def trace(
    operator: LinearOperator,
    *,
    method: TraceChoice = "auto",
    rtol: float = 0.05,
    max_passes: int = 1000,
    rank: int | None = None,
    blocks: Blocks | None = None,
    eigenpairs: tuple[Sequence[float], torch.Tensor] | None = None,
    memory_budget: int = 2**32,
    seed: int = 0,
    noise: float | None = None,
    observer: Observer = SILENT,
) -> TraceResult:
    """tr A by random probes, an independent one for every term A_t of A in every pass.

    - `hutchinson` (1990): sum_t E[z_t^T A_t z_t] with random signs z_t: as unbiased as one probe shared by all data, at
      the same price a pass, with about as many times less variance as there are terms.
    - `deflated`: the part in a Krylov space is known exactly, the probes cover its complement alone.
    - `hutch++`: likewise, with the range of A S for random signs S (Meyer, Musco, Musco, Woodruff 2021).
    - `xtrace`: products with the whole matrix alone (Epperly, Tropp, Webber 2024); its interval is an estimate.
    - `exact`: every diagonal entry, by P products, or by the rows of the samples' Jacobians for a Gauss-Newton matrix.
    - `auto` makes a few Hutchinson passes; where these predict many more it takes a Krylov space first, or, where P is
      less than they are, the unit vectors. Never by timing: the same seed gives the same numbers everywhere.

    The interval is Student's t, its 5 % spread over all looks; the variance comes from the entries of pairs of passes,
    see `accuracy.forms`. What rounding may add, relative to the matrix and not to a trace that cancels, widens it.

    Args:
        operator: the matrix, a sum of terms.
        method: see above.
        rtol: half-width of the 95 % interval over the estimate, to reach.
        max_passes: passes and products after which it stops and says that the interval is wider.
        rank: vectors of the known space of `deflated` and `hutch++`; 20 if None.
        blocks: diagonal blocks to estimate too: `auto` keeps to methods that give them.
        eigenpairs: eigenvalues and orthonormal eigenvectors (k, size) found before: `auto` takes them out of the probes
            where no blocks are asked for.
        memory_budget: bytes that the known space may take.
        seed: of the probes; a term's probe in a pass depends on nothing else.
        noise: relative error of a product, ||fl(A v) - A v|| / ||A v||; None: as the operator knows it. The interval
            holds it too.
        observer: hears progress.

    Raises:
        UsageError: CT001, the arguments make no sense.
        Interrupted: stopped on the way; its `partial` is the result so far.
    """
    _check_arguments(operator, method, rtol, max_passes, rank, blocks)
    run = _Run(operator, rtol, max_passes, blocks, memory_budget, seed, observer, noise_of(operator, noise))
    if eigenpairs is not None and blocks is None and len(eigenpairs[1]) <= run.affordable:
        run.given = KnownSpace(operator.terms.argument(eigenpairs[1]), sum(eigenpairs[0]))
    return run.result_of(method, rank)


class _Run:
    def __init__(
        self,
        operator: LinearOperator,
        rtol: float,
        max_passes: int,
        blocks: Blocks | None,
        memory_budget: int,
        seed: int,
        observer: Observer,
        noise: float,
    ) -> None:
        self.noise = noise
        self.operator, self.rtol, self.max_passes = operator, rtol, max_passes
        self.blocks, self.seed, self.observer = blocks, seed, observer
        self.meter = Meter(operator)
        vector_bytes = max(operator.terms.space.vector_bytes, 1)
        self.affordable: int = observer.ledger.remembered("room", None, lambda: memory_budget // vector_bytes - 4)
        self.probing: ProbeSearch | None = None
        self.known: KnownSpace | None = None
        self.given: KnownSpace | None = None  # known before
        self.exchange: XTrace | None = None
        self.patience: int | None = None  # passes after which something else is cheaper
        self.method: TraceMethod = "hutchinson"
        self.reason = "the first passes"

    def result_of(self, method: TraceChoice, rank: int | None) -> TraceResult:
        self.observer.begin("trace")
        if method != "auto":
            self.reason = "asked for"
        try:
            match method:
                case "auto":
                    return self._auto()
                case "hutchinson":
                    return self._by_probes(None, 0.05)
                case "deflated" | "hutch++":
                    room = (self.max_passes - FEWEST_PASSES) // _PRICE[method]
                    return self._by_probes(self._known(method, rank or self._affordable(min(_RANK, room))), 0.05)
                case "xtrace":
                    if self.operator.space.dim < _LEAST_RANK:
                        self.reason = f"XTrace needs {_LEAST_RANK} dimensions"
                        return self._exact()
                    self.method = method
                    self.exchange = XTrace(
                        self.operator, self.rtol, self.max_passes, self.seed, self.observer, self.noise
                    )
                    self.exchange.run()
                    return self._result_of_exchange()
                case "exact":
                    return self._exact()
        except STOPPING as error:
            stop = cause_of(error)
            raise Interrupted(self._partial(), stop) from stop

    def _auto(self) -> TraceResult:
        """One decision, after the pilot's look and its share of the error; so the interval's 5 % stay whole."""
        exact = self.operator.diagonal_cost
        if exact <= _EXACT_AT_ONCE:
            self.reason = "one product gives the whole diagonal" if exact == 1 else f"{exact} give the whole diagonal"
            return self._exact()
        self.reason = "the first passes were enough"
        if self.given is not None:
            self.method = "deflated"
            self.reason += f", {counted(len(self.given.basis), 'eigenvector')} being known"
        plain = self.probing = self._search(self.given, 0.05)
        plain.pilot()
        made = plain.num_passes
        if plain.is_narrow or made >= self.max_passes:
            return self._result_of_probes()
        remaining = plain.planned_passes - made
        affords_both = made + 2 * exact <= self.max_passes
        self.patience = exact if affords_both else None
        predicted = f"the first passes predict {counted(remaining, 'more pass')}"
        if exact <= remaining and made + exact <= self.max_passes:
            self.reason = f"{predicted}, and {exact} give the whole diagonal"
            return self._exact()
        # a space of m vectors was seen to lower the variance about (1 + m/4)-fold; this m makes the sum least
        room = self.max_passes - made - FEWEST_PASSES  # the probes beside it are to have an error of their own
        rank = self._affordable(min(int(2 * math.sqrt(remaining)) - 4, room))
        known = self.given is not None
        if self.blocks is not None or known or rank < _LEAST_RANK or rank > room:
            why = "eigenvectors being known" if known else "too few for more"
            why = "which the layers' traces need too" if self.blocks is not None else why
            self.reason = f"{predicted}, {why}"
            plain.max_passes = min(plain.max_passes, made + exact) if affords_both else plain.max_passes
            plain.finish()
            found = self._result_of_probes()
        else:
            self.reason = f"{predicted}: {rank} of them make a space whose part is exact, and leave less to the probes"
            found = self._by_probes(self._known("deflated", rank), 0.05 - look_error(0))
        if found.converged or not affords_both:
            return found
        self.reason = (
            f"{counted(found.num_passes, 'pass')} did not suffice; the whole diagonal takes {counted(exact, 'product')}"
        )
        return self._exact()

    def _affordable(self, rank: int) -> int:
        return max(1, min(rank, self.operator.space.dim // 2, self.affordable))

    def _known(self, method: Literal["deflated", "hutch++"], rank: int) -> KnownSpace:
        rank = min(rank, self.operator.space.dim)
        self.observer.begin(f"a space of {counted(rank, 'vector')}")
        found = known_space(self.operator, method, rank, self.seed, self.observer)
        self.method = method
        return found

    def _search(self, known: KnownSpace | None, alpha: float) -> ProbeSearch:
        left = self.max_passes - math.ceil(
            self.meter.products - 1e-6
        )  # shares of the data add up to one but for rounding
        left = left if self.patience is None else min(left, self.patience)
        blocks = self.blocks if known is None else None
        return ProbeSearch(
            self.operator,
            self.rtol,
            max(left, 2),
            self.seed,
            self.observer,
            self.noise,
            known=known,
            blocks=blocks,
            alpha=alpha,
        )

    def _by_probes(self, known: KnownSpace | None, alpha: float) -> TraceResult:
        search = self._search(known, alpha)
        self.known = known
        self.observer.begin("trace")
        if self.probing is None or known is None:
            self.probing = search
            search.pilot()
        else:  # until its pilot is through, the plain one's numbers are the better ones
            search.pilot()
            self.probing = search
        search.finish()
        return self._result_of_probes()

    def _exact(self) -> TraceResult:
        total = self.operator.diagonal_cost
        self.observer.begin("every diagonal entry", float(total))
        found = self.operator.exact_diagonal(
            KeptSteps("every entry", self.operator, total, "the diagonal", self.observer)
        )
        diagonal = self.operator.space.whole(found).to("cpu", torch.float64).numpy()
        require_usable(diagonal, "a diagonal entry")
        blocks = None
        if self.blocks is not None:
            cuts = np.cumsum(self.blocks.sizes)[:-1]
            sums, sizes = ([float(p.sum()) for p in np.split(x, cuts)] for x in (diagonal, np.abs(diagonal)))
            floors = self.blocks.floors(float(np.linalg.norm(diagonal)))
            blocks = {
                name: BlockTrace(
                    sum(sums[each] for each in members),
                    0.0,
                    math.inf,
                    NOISE_OF_TRACES * self.noise * max(sum(sizes[each] for each in members), floor),
                )
                for (name, members), floor in zip(self.blocks.members.items(), floors, strict=True)
            }
        value, scale = float(diagonal.sum()), float(np.abs(diagonal).sum())
        # the matrix may be far larger than its diagonal: where that cancels, or is no sum of squares
        if abs(value) <= scale / 2 or total >= self.operator.space.dim:
            scale = max(scale, self._norm_of_a_product())
        self.method = "exact"
        arithmetic = NOISE_OF_TRACES * self.noise * scale
        interval = Interval(value, 0.0, arithmetic, math.inf, arithmetic)
        narrow = arithmetic <= self.rtol * abs(value) or scale == 0.0
        return self._result(interval, value, scale, 0, total, 1, narrow, blocks)

    def _norm_of_a_product(self) -> float:
        """||A z|| for random signs z, whose mean square is ||A||_F^2."""
        space = self.operator.space
        return float(space.norm(self.operator.matvec(space.signs(self.seed, 25)[0])))

    def _result_of_probes(self) -> TraceResult:
        search = self.probing
        assert search is not None
        rank = len(search.known.basis) if search.known else 0
        num, groups = search.num_passes, self.operator.terms.number
        scale, blocks = search.scale, search.block_traces()
        return self._result(search.interval, search.value, scale, rank, num, groups, search.is_narrow, blocks)

    def _result_of_exchange(self) -> TraceResult:
        search = self.exchange
        assert search is not None and search.interval is not None
        found, num = search.interval, search.num_probes
        return self._result(found, found.value, search.scale, num, num, 1, search.is_narrow, None)

    def _result(
        self,
        interval: Interval | None,
        value: float,
        scale: float,
        rank: int,
        num_passes: int,
        num_terms: int,
        converged: bool,
        blocks: dict[str, BlockTrace] | None,
    ) -> TraceResult:
        dim = self.operator.space.dim
        least = dim * least_of(self.operator, scale)  # beside what is relative to the matrix, which may be zero
        if interval is not None:
            interval = replace(interval, half_width=interval.half_width + least, arithmetic=interval.arithmetic + least)
        if blocks is not None:
            blocks = {name: replace(each, arithmetic=each.arithmetic + least) for name, each in blocks.items()}
        return TraceResult(
            value=interval.value if interval else value,
            stderr=interval.stderr if interval else None,
            degrees=interval.degrees if interval else None,
            arithmetic=interval.arithmetic if interval else least,
            scale=scale,
            ci95=interval.bounds if interval else None,
            method=self.method,
            reason=self.reason,
            rank=rank,
            num_passes=num_passes,
            num_terms=num_terms,
            converged=converged,
            blocks=blocks,
            cost=self.meter.cost(),
            history=self.probing.history() if self.probing is not None and self.method != "exact" else (),
        )

    def _partial(self) -> TraceResult | None:
        """What there was when it was stopped: one more look than planned, at its own price."""
        if self.exchange is not None:
            self.exchange.take_look(1)
            return self._result_of_exchange() if self.exchange.interval is not None else None
        if self.probing is None or not self.probing.forms:
            return None
        self.method = self.method if self.probing.known else "hutchinson"
        self.probing.take_look()
        return self._result_of_probes()


def _check_arguments(
    operator: LinearOperator, method: str, rtol: float, max_passes: int, rank: int | None, blocks: Blocks | None
) -> None:
    def refuse(what: str, expected: str, received: object, remedy: str) -> UsageError:
        return UsageError("CT001", what, expected=expected, received=str(received), remedy=remedy)

    if method not in METHODS:
        raise refuse(f"unknown method {method!r}", ", ".join(METHODS), method, "--method auto")
    if not 0 < rtol < 1:
        raise refuse("no such tolerance", "0 < rtol < 1", rtol, "--rtol 0.05")
    if max_passes < 2:
        raise refuse("an interval needs two passes", "--max-passes 2 or more", max_passes, "--max-passes 1000")
    if rank is not None and method not in {"deflated", "hutch++"}:
        raise refuse("only deflated and hutch++ take a rank", "--method deflated", method, "--method deflated")
    if rank is not None and not 1 <= rank <= operator.space.dim:
        raise refuse("no such rank", f"1 to {operator.space.dim}", rank, "--rank 20")
    least = _PRICE.get(method, 0) * (rank or 1) + 2
    if max_passes < least:
        raise refuse(
            "the space leaves no passes for the probes",
            f"--max-passes {least} or more",
            max_passes,
            f"--max-passes {least}" + (", or a smaller --rank" if rank is not None else ", or --method hutchinson"),
        )
    if blocks is not None and method not in {"auto", "hutchinson", "exact"}:
        raise refuse(f"{method} does not give the layers' traces", "auto, hutchinson or exact", method, "--method auto")
    if method == "exact" and operator.diagonal_cost > max_passes:
        raise refuse(
            "the whole diagonal takes more products than are allowed",
            f"at most {max_passes} of them",
            operator.diagonal_cost,
            f"--max-passes {operator.diagonal_cost}, or --method auto",
        )
