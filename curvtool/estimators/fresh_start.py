"""A fresh random start beside the pairs found: it shows missed pairs, and excludes others with a probability."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from curvtool.estimators.eigenpairs import Certificate, Eigenvalue
from curvtool.estimators.request import FAILURE
from curvtool.linalg.certificate import largest_with_mass, least_mass, upper_bounds
from curvtool.linalg.lanczos import Keep, Lanczos
from curvtool.linalg.ritz import RitzPairs
from curvtool.operators.base import LinearOperator
from curvtool.vocabulary import Storage

NUM_STEPS = 3  # products of a fresh start that shows nothing, at least; with two a third copy of an eigenvalue stayed
# hidden in 2 of 5 runs, with three in 1 of 75
SEED = 31  # with which fresh starts are drawn, so that they owe nothing to any other
# the probability that a fresh start hides a missed pair, at which it may end; the search hides one rarely by itself,
# and both together more rarely; a second copy it hides always. At 0.12 copies were missed twice as often, at 0.04 all
# searches took 3 % more products. Where it is not reached soon, something may hold the start up: a missed pair
DOUBT = 0.06
NEXT = 3  # unwanted values that are watched; those further in move with every product
# of its way to the last wanted value, that an unwanted one may rise in a fresh start: a missed eigenvector of which the
# search holds a part stands as a Ritz value too low, and a random start lifts it without reaching its place
RISEN = 0.25
Recurrence = tuple[np.ndarray, np.ndarray]  # diagonal and off-diagonal, as `Lanczos.recurrence` has them
Ends = dict[float, float]  # by sign, +1 the upper end: sign x (a bound that no eigenvalue of the complement exceeds)


def failure_of_look(number: int) -> float:
    """The probability with which the bounds of one fresh start, numbered from 0, may be wrong.

    Half of `FAILURE` is the search's own start's. The fresh starts share the other half, however many there are:
    1/4 + 1/8 + ... = 1/2.
    """
    return FAILURE / 4 / 2**number


class FreshStart:
    """Lanczos from a random vector in the complement of orthonormal rows D (m, P), of which D A D^T is known.

    Args:
        operator: the matrix A.
        rows: vectors to project out; the last m of them are D.
        inside: D A D^T, shape (m, m).
        room: vectors that are kept; where more products are made, the leading pairs are gone on with.
        seeds: of the start.
        keep: which pairs these are.
        storage: where they lie.
    """

    def __init__(
        self,
        operator: LinearOperator,
        rows: torch.Tensor,
        inside: np.ndarray,
        room: int,
        seeds: tuple[int, ...],
        keep: Keep,
        storage: Storage = "device",
    ) -> None:
        self.inside, self.keep = inside, keep
        self.dim = operator.space.dim - len(rows)
        self.lanczos = Lanczos(
            lambda vector, _: (operator.matvec(vector), vector.new_empty(0)),
            operator.space,
            max(room, 1),
            (*seeds, SEED),
            deflated=rows,
            storage=storage,
        )
        self.pairs: RitzPairs | None = None
        self.recurrence: Recurrence | None = None  # of the start, as far as it was kept

    @property
    def num_steps(self) -> int:
        """Products so far."""
        return self.lanczos.num_steps

    def state(self) -> dict[str, Any]:
        """The Krylov space, and the recurrence of its start."""
        return {"lanczos": self.lanczos.state(), "recurrence": None if self.recurrence is None else [*self.recurrence]}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a state of a fresh start in the same complement."""
        self.lanczos.restore(state["lanczos"])
        self.pairs = self.lanczos.ritz_pairs() if self.lanczos.size else None
        self.recurrence = None if state["recurrence"] is None else tuple(state["recurrence"])

    def step(self) -> None:
        """One product."""
        self.pairs = self.lanczos.step(self.keep)
        self.recurrence = self.lanczos.recurrence or self.recurrence

    def joint_pairs(self) -> RitzPairs:
        """The Ritz pairs of D and the fresh Krylov space together; their residuals are not known."""
        size, m = self.lanczos.size, len(self.inside)
        whole = np.zeros((m + size, m + size))
        whole[:m, :m] = self.inside
        whole[m:, m:] = self.lanczos.projected[:size, :size]
        whole[:m, m:] = self.lanczos.leak[len(self.lanczos.leak) - m :, :size]
        whole[m:, :m] = whole[:m, m:].T
        values, coefficients = np.linalg.eigh(whole)
        return RitzPairs(values, coefficients, np.zeros_like(values))

    @property
    def own_pairs(self) -> RitzPairs:
        """Those of the fresh Krylov space alone."""
        assert self.pairs is not None
        return self.pairs

    def reach(self, sign: float, doubt: float) -> float:
        """sign x (a bound): with probability 1 - doubt no eigenvalue of the complement exceeds it. An estimate where
        the start's recurrence is gone."""
        assert self.pairs is not None
        if self.lanczos.recurrence is not None:
            return self.ends((sign,), doubt)[sign]
        place = -1 if sign > 0 else 0
        return float(sign * self.pairs.values[place] + self.pairs.residuals[place])

    def leading(self, sign: float) -> torch.Tensor:
        """The complement's leading Ritz vector of that end: shape (P,)."""
        assert self.pairs is not None
        return self.lanczos.vectors(self.pairs, np.array([len(self.pairs.values) - 1 if sign > 0 else 0]))[0]

    def ends(self, signs: tuple[float, ...], failure: float) -> Ends:
        """Bounds that no eigenvalue of the complement exceeds, at all ends together with probability 1 - failure."""
        return ends_of(self.recurrence, self.dim, signs, failure)


def ends_of(
    recurrence: Recurrence | None, dim: int, signs: tuple[float, ...], failure: float, random_share: float = 1.0
) -> Ends:
    """Bounds that no eigenvalue exceeds, of any search that began with a random vector; empty where its recurrence is
    gone.

    Args:
        recurrence: the search's.
        dim: of the space that the start was drawn in.
        signs: the ends.
        failure: the probability that one of the bounds is wrong.
        random_share: of the start's squared length.
    """
    if recurrence is None:
        return {}
    mass = least_mass(dim, failure / len(signs)) * random_share
    return {sign: largest_with_mass(sign * recurrence[0], recurrence[1], mass) for sign in signs}


def has_risen(before: RitzPairs, joint: RitzPairs, k: int, which: str, slack: float) -> bool:
    """Whether one of the unwanted values next to the wanted ones is on its way to them.

    Args:
        before: the search's pairs.
        joint: those together with the fresh start.
        k: wanted pairs, at each end for `be`.
        which: the ends.
        slack: a rise that says nothing.
    """
    for old, new in zip(_inward(before, which), _inward(joint, which), strict=True):
        last = min(len(old), len(new), k + NEXT)
        rise = new[k:last] - old[k:last]
        if (rise > np.maximum(RISEN * (old[k - 1] - old[k:last]), slack)).any():
            return True
    return False


def stands_alone(before: RitzPairs, own: RitzPairs, k: int, which: str, slack: float) -> bool:
    """Whether a fresh start by itself shows a value past the first unwanted one, on its way to the wanted ones.

    Its complement then holds an eigenvalue that the search knows nothing of, such as a second copy of one that it
    found: going on with the search would not show it, going on with the fresh start does.

    Args:
        before: the search's pairs.
        own: the fresh start's.
        k: wanted pairs, at each end for `be`.
        which: the ends.
        slack: a difference that says nothing.
    """
    for old, new in zip(_inward(before, which), _inward(own, which), strict=True):
        if len(old) > k and new[0] - old[k] > max(RISEN * (old[k - 1] - old[k]), slack):
            return True
    return False


def _inward(pairs: RitzPairs, which: str) -> list[np.ndarray]:
    """For each end that is looked for all values from it on inwards, as numbers that fall."""
    if which == "lm":
        return [np.sort(np.abs(pairs.values))[::-1]]
    return [np.sort(sign * pairs.values)[::-1] for sign in signs_of(which)]


def signs_of(which: str) -> tuple[float, ...]:
    """The ends that are looked for: +1 the upper, -1 the lower one."""
    return {"la": (1.0,), "sa": (-1.0,)}.get(which, (1.0, -1.0))


def certificate(
    found: tuple[Eigenvalue, ...], slacks: list[float], which: str, k: int, values: np.ndarray, gram: np.ndarray,
    rest: Ends, whole: Ends, products: float, coupling: float = 0.0,
) -> Certificate:  # fmt: skip
    """The limits beyond which nothing was missed.

    With T = diag(values) the matrix inside the span of the vectors known, and C^T C the Gram matrix of their residuals,
    the i-th eigenvalue from an end has a bound (`upper_bounds`). As long as it lies within the i-th one's error or
    tolerance, nothing is missed; the first bound that does not is the limit.

    Args:
        found: the pairs as they are listed.
        slacks: the tolerance of each.
        which: the ends.
        k: pairs at each end.
        values: Ritz values of the span, shape (m,).
        gram: inner products of their residuals, shape (m, m).
        rest: by end, what bounds the complement's spectrum.
        whole: likewise the whole one's.
        products: that were made for it.
        coupling: of vectors that were deflated, to the rest.
    """
    limits: dict[float, float | None] = {1.0: None, -1.0: None}
    for sign in signs_of(which):
        edges = [ends[sign] for ends in (rest, whole) if sign in ends]
        if not edges:
            continue
        top = whole.get(sign, math.inf)
        listed = sorted(((sign * pair.value, max(pair.error_bound, slack), pair.rounding)
                         for pair, slack in zip(found, slacks, strict=True)), reverse=True)  # fmt: skip
        listed = listed[:k] if which != "lm" else [entry for entry in listed if entry[0] > 0]
        bounds = (min(bound, top) for bound in upper_bounds(sign * values, gram, min(edges)))
        arithmetic = max((pair.rounding for pair in found), default=0.0)
        limit = next((bound for entry, bound in zip([*listed, None], bounds, strict=False)
                      if entry is None or bound > entry[0] + entry[1]))  # fmt: skip
        limits[sign] = float(sign * (limit + arithmetic + coupling))
    return Certificate(limits[1.0], limits[-1.0], FAILURE, products)
