"""A way to run products is one class: a toy one is found, timed, compared and refused like the others."""

import pytest
import torch
from cases import CASES
from oracles import dense_hessian

from curvtool import Hessian
from curvtool.errors import DerivativeError
from curvtool.operators.product_ways import WAYS, Fresh, ProductWay


class Halves(ProductWay):
    """The batch in two halves, which is right."""

    name, is_timed, factor = "halves", True, 1.0

    @classmethod
    def product(cls, matrix, rows, vector, execution=None):
        middle = rows.start + len(rows) // 2
        parts = [Fresh.product(matrix, some, vector) for some in (range(rows.start, middle), range(middle, rows.stop))
                 if some]  # fmt: skip
        found = [None if each[0] is None else sum(each) * cls.factor for each in zip(*parts, strict=True)]
        return found

    @classmethod
    def repeated(cls, matrix, rows, vector):
        return lambda: cls.product(matrix, rows, vector)


class Wrong(Halves):
    """Twice too large."""

    name, factor = "wrong", 2.0


def test_a_way_of_ones_own(monkeypatch):
    monkeypatch.setitem(WAYS, "halves", Halves)
    case = CASES[0]
    operator = Hessian(case.problem(), batch_size=4, mode="halves")
    assert torch.allclose(operator.materialize(), dense_hessian(case), rtol=1e-8, atol=1e-10)
    assert operator.execution.describe() == "halves"
    timed = {way.mode for way in operator.execution.calibrate_thoroughly().seconds}
    every = {way.mode for way in Hessian(case.problem()).execution.calibrate_thoroughly().seconds}
    assert timed <= {"halves"} and "halves" in every and {"kept", "fresh"} <= every


def test_a_wrong_way_is_refused(monkeypatch):
    monkeypatch.setitem(WAYS, "wrong", Wrong)
    case = CASES[0]
    with pytest.raises(DerivativeError, match="CT055"):
        Hessian(case.problem(), batch_size=4, mode="wrong").materialize()
    left = Hessian(case.problem()).execution.calibrate_thoroughly().rejected
    assert any(way.mode == "wrong" and "differs" in reason for way, reason in left.items())
