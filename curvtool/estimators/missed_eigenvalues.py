"""Whether a search by Lanczos missed eigenvalues: fresh random starts beside it, and a certificate of what they say."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from curvtool.estimators.eigenpairs import EMERGED, Certificate, Eigenvalue
from curvtool.estimators.fresh_start import (
    DOUBT,
    NUM_STEPS,
    Ends,
    FreshStart,
    certificate,
    ends_of,
    failure_of_look,
    has_risen,
    signs_of,
    stands_alone,
)
from curvtool.estimators.request import BESIDE, FAILURE, room_beside
from curvtool.estimators.steering import keep_for

if TYPE_CHECKING:
    from curvtool.estimators.eigenvalues_by_lanczos import Search

_MOST_SHOWN = 4  # times that the search goes on because a random start showed a missed pair
_LOOK_SHARE = 0.15  # of the search's products: what a random start may take that shows no pair and excludes none
# Further products of the search, as a share of those made, where a fresh start is inconclusive. An eigenvector that
# lies half in the search's space is coupled to the rest only through the search's own next vectors: these show it
# within a fifth of the products made so far, where a random start needs more. About 1 run in 10 goes on
_FURTHER_SHARE = 0.3
_SECOND_LOOK_SHARE = 0.3  # what a random start may take after these, since the first left something open


class MissedEigenvalues:
    """What random starts show beside a search, which it tells to go on where one was missed.

    Args:
        search: the search.

    Attributes:
        num_products: of the fresh starts.
        is_unsure: whether a missed eigenvalue was shown for which the search could not go on.
        from_start: by end (+1 upper, -1 lower), beyond what the search's own random start excludes any eigenvalue;
            None before it was asked.
    """

    def __init__(self, search: Search) -> None:
        self.search = search
        self.operator, self.request, self.lanczos = search.operator, search.request, search.lanczos
        self.from_start: Ends | None = None
        self.num_shown, self.num_looks, self.num_products, self.is_unsure = 0, 0, 0.0, False
        self.fresh: tuple[FreshStart, float] | None = None  # that is at work, and the fresh products before it
        self.before: dict[str, Any] | None = None  # the saved state of a fresh start that was stopped
        self.is_second_look = False  # whether the search went on since the last fresh start, and nothing moved
        self.going: dict[str, Any] | None = None  # on with the search after a fresh start; see `_goes_on_unmoved`
        self.looked: dict[str, Any] | None = None  # what fresh starts showed, once none is to come

    def state(self) -> dict[str, Any]:
        """What was shown so far, and the fresh start at work."""
        return {
            "fresh": [self.num_shown, self.num_looks, self.num_products, self.is_second_look], "going": self.going,
            "looked": self.looked,
            "looking": None if self.fresh is None else {"search": self.fresh[0].state(), "begun": self.fresh[1]},
            "ends": None if self.from_start is None else [[sign, end] for sign, end in self.from_start.items()],
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        """Puts it back."""
        self.num_shown, self.num_looks, self.num_products, self.is_second_look = state["fresh"]
        self.from_start = None if state["ends"] is None else dict(state["ends"])
        self.going, self.before, self.looked = state["going"], state["looking"], state["looked"]

    def certificate_of_all(self, look: bool) -> Certificate | None:
        """The certificate once no start shows a missed eigenvalue, or as it is where none is to look.

        Args:
            look: whether fresh starts are made.
        """
        if self.looked is None:
            self.note_ends()
            limits = self._look_beside() if look else self._certificate(None)
            self.looked = {"limits": limits, "unsure": self.is_unsure}
        self.is_unsure = self.looked["unsure"]
        found: Certificate | None = self.looked["limits"]
        return found

    def note_ends(self) -> None:
        """Bounds on the spectrum's ends from the random start; to be had until a restart cuts its recurrence."""
        if self.from_start is None:
            request = self.request
            start, dim = request.start, self.lanczos.dim
            known = self.search.storage != "bfloat16" and (start is None or request.independent_start)
            share = 1.0 if start is None else 0.25  # two unit vectors' sum is 2 long at most
            self.from_start = (
                ends_of(self.lanczos.recurrence, dim, signs_of(request.which), request.failure, share) if known else {}
            )

    def _look_beside(self) -> Certificate | None:
        """Fresh starts and further products of the search, until neither shows a missed eigenvalue."""
        while True:
            fresh, emerged, limits = None, None, None
            if self.going is None:
                fresh, emerged, is_open = self._fresh_start()
                limits = self._certificate(fresh)  # later products only bring Ritz values nearer: it stays valid
                self.num_looks += 1
                if emerged is None and (not is_open or self.is_second_look):
                    return limits
                if emerged is None:
                    before, steps = (
                        self.search.eigenvalues(self.search.ritz_pairs),
                        _FURTHER_SHARE * self.lanczos.num_steps,
                    )
                    self.going = {"before": before, "left": math.ceil(steps), "limits": limits}
            if self.going is not None:
                limits = self.going["limits"]
                if self._goes_on_unmoved(self.going):
                    self.is_second_look = True
                    continue
            self.num_shown += 1
            self.is_second_look = False
            goes_on = self.num_shown <= _MOST_SHOWN and all(
                self.lanczos.join(vector, keep_for(self.request.k, self.request.which)) for vector in emerged or []
            )
            self.search.begin_anew()
            if not goes_on or self.search.is_done:
                self.is_unsure = True
                return limits
            del fresh, emerged
            self.search.iterate()

    def _goes_on_unmoved(self, going: dict[str, Any]) -> bool:
        """Goes on with the search where a fresh start left something open. Returns whether the values stayed.

        Args:
            going: the eigenvalues `before` and the steps `left`, which a run that was stopped meanwhile has again.
        """
        before, trend, has_moved = going["before"], self.search.trend(), False
        while not has_moved:
            now = self.search.eigenvalues(self.search.ritz_pairs)
            moves = np.abs([e.value - o.value for e, o in zip(now, before, strict=True)])
            has_moved = bool((moves > self._slacks(before)).any())
            if (
                has_moved
                or not going["left"]
                or self.lanczos.exhausted
                or self.search.num_products >= self.request.max_passes
            ):
                break
            going["left"] -= 1
            self.search.advance(trend)
        self.going = None
        return not has_moved and self.search.is_enough

    def _slacks(self, found: tuple[Eigenvalue, ...]) -> np.ndarray:
        """By how much each value may move where nothing was missed: a missed eigenvalue that few products resolve by
        half moves a listed one by less than the tolerance."""
        return np.array([max(pair.error_bound, EMERGED * self.request.tolerance.of(pair.value)) for pair in found])

    def _fresh_start(self) -> tuple[FreshStart | None, list[torch.Tensor] | None, bool]:
        """A fresh start, the directions in which it shows values beyond those found (None where it shows none), and
        whether it leaves open that there are some: where `DOUBT` is left at its end, or an unwanted value rises."""
        assert self.search.pairs is not None
        lanczos, request, pairs = self.lanczos, self.request, self.search.pairs
        index = pairs.wanted(request.k, request.which)
        if lanczos.exhausted or self.search.storage == "bfloat16" or lanczos.dim == lanczos.size:
            return None, None, False
        if request.deflated is None:
            rows, inside = lanczos.basis[: lanczos.size], lanczos.projected[: lanczos.size, : lanczos.size]
            inside = np.tril(inside) + np.tril(inside, -1).T
        else:
            rows, inside = torch.cat([request.deflated, lanczos.vectors(pairs, index)]), np.diag(pairs.values[index])
        before, self.before = self.before, None
        begun = self.num_products if before is None else before["begun"]
        room = int(min(request.max_passes - lanczos.num_steps - begun, lanczos.dim - len(inside)))
        if room < 1:
            return None, None, False
        share = _SECOND_LOOK_SHARE if self.is_second_look else _LOOK_SHARE
        most = min(room, max(BESIDE, math.ceil(share * lanczos.num_steps)))
        kept = min(most, room_beside(self.operator.space, request, len(lanczos.basis)))
        seeds, keep = (request.seed, self.num_looks), keep_for(1, request.which)
        fresh = FreshStart(self.operator, rows, inside, kept, seeds, keep, self.search.storage)
        if before is not None:
            fresh.restore(before["search"])
        self.fresh = fresh, begun
        try:
            emerged, is_open = self._shown_by(fresh, most, min(room, max(most, lanczos.num_steps)))
        finally:
            self.fresh = None
        return fresh, emerged, is_open

    def _shown_by(self, fresh: FreshStart, most: int, longest: int) -> tuple[list[torch.Tensor] | None, bool]:
        """What `_fresh_start` tells, by as many products at most, and by `longest` where it shows a value by itself."""
        request, pairs = self.request, self.search.ritz_pairs
        found = self.search.eigenvalues(pairs)
        slacks, values = self._slacks(found), np.array([pair.value for pair in found])
        slack, signs = float(slacks.min()), signs_of(request.which)
        done = fresh.num_steps
        for step in range(done, longest):
            if step > done:  # after each product the run may be stopped
                self.search.observer.advance(
                    self.search.num_products, "another random start looks for missed eigenvalues"
                )
            fresh.step()
            self.num_products += 1
            joint = fresh.joint_pairs()
            now = joint.values[joint.wanted(request.k, request.which)][: len(values)]
            if (np.abs(now - values) > slacks).any():
                return [fresh.leading(sign) for sign in signs], False
            if step + 1 < NUM_STEPS:
                continue
            is_seen = stands_alone(pairs, fresh.own_pairs, request.k, request.which, slack)
            doubt = FAILURE if is_seen else DOUBT
            if not any(self._is_near(fresh.reach(sign, doubt), sign, found) for sign in signs):
                return None, False
            if is_seen:
                continue
            if step + 1 >= most or has_risen(pairs, joint, request.k, request.which, slack):
                break
        return None, True

    def _is_near(self, reach: float, sign: float, found: tuple[Eigenvalue, ...]) -> bool:
        """Whether the complement may hold a value past the last wanted one of that end."""
        k, which = self.request.k, self.request.which
        sizes = [abs(pair.value) if which == "lm" else sign * pair.value for pair in found]
        listed = list(zip(sizes, self._slacks(found), strict=True))
        value, slack = min(listed if which != "be" else listed[:k] if sign > 0 else listed[-k:])
        return reach > value + slack

    def _certificate(self, fresh: FreshStart | None) -> Certificate | None:
        assert self.search.pairs is not None
        request, lanczos, pairs = self.request, self.lanczos, self.search.pairs
        found = self.search.eigenvalues(pairs)
        slacks = [request.tolerance.of(pair.value) for pair in found]
        signs = signs_of(request.which)
        # beside a search with deflated vectors a fresh start has the wanted vectors alone: others are in its complement
        whole = request.deflated is None or lanczos.exhausted
        keep = np.arange(len(pairs.values)) if whole else pairs.wanted(request.k, request.which)
        residuals = lanczos.coupling @ pairs.coefficients[:, keep]
        rest: Ends = {}
        if lanczos.exhausted:
            rest = dict.fromkeys(signs, -math.inf)
        elif fresh is not None:
            rest = fresh.ends(signs, failure_of_look(self.num_looks))
        if not rest and not self.from_start:
            return None
        deflated = self.search.deflated_pairs
        return certificate(
            found, slacks, request.which, request.k, pairs.values[keep], residuals.T @ residuals, rest,
            self.from_start or {}, self.num_products, 0.0 if deflated is None else deflated.coupling,
        )  # fmt: skip
