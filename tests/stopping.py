"""A search of eigenvalues that is stopped at each of its looks, and goes on from there."""

from __future__ import annotations

import copy
import math

import pytest

from curvtool.errors import Interrupted
from curvtool.estimators.observer import Ledger, Observer


class Stopping(Observer):
    """Stops at one look of each run; the next run goes on from there."""

    def __init__(self, at=math.inf):
        self.held, self.looks, self.at, self.owner = None, 0, at, None
        self.ledger = self.Held(self)

    class Held(Ledger):
        def __init__(self, outer):
            self.outer = outer

        def resume(self, name, operator, owner):
            self.outer.owner = owner
            if self.outer.held is not None:
                owner.restore(copy.deepcopy(self.outer.held))

    def advance(self, done, estimate, remaining=None):
        self.looks += 1
        if self.looks == self.at:
            self.held = copy.deepcopy(self.owner.state())
            raise KeyboardInterrupt


def stopped_at_each_look(found):
    """How many stops lay in the midst of a fresh start; each run is stopped at one look, at the next, and goes on.

    Args:
        found: takes an observer and gives the eigenvalues.
    """
    through = Stopping()
    whole = found(through)
    stops = 0
    for at in range(1, through.looks + 1):
        observer = Stopping(at)
        with pytest.raises(Interrupted):
            found(observer)
        stops += observer.held["looking"] is not None
        observer.at, observer.looks = 1, 0  # and again at the next product
        if at < through.looks:
            with pytest.raises(Interrupted):
                found(observer)
        observer.at = math.inf
        again = found(observer)
        assert again.values == whole.values, at
        assert again.certificate == whole.certificate, (at, again.certificate, whole.certificate)
        assert again.cost.check_hvps == whole.cost.check_hvps
    return whole, stops
