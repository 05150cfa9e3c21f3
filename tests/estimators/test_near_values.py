"""Eigenvalues on or beside each other: what errors are stated, what a fresh start shows, and stops in between."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from stopping import stopped_at_each_look

from curvtool import MatrixOperator, eigenvalues
from curvtool.estimators import eigenvalues_by_lanczos, missed_eigenvalues, request
from curvtool.estimators.accuracy.pairs import PairErrors, in_turn
from curvtool.estimators.eigenpairs import EMERGED, HIDDEN, MARGIN, Eigenvalue, Tolerance
from curvtool.estimators.fresh_start import FreshStart
from curvtool.estimators.steering import keep_for

TWICE = np.r_[np.random.default_rng(3).random(200) * 0.5, 0.6, 0.6, 0.59]


def operator_of(values):
    return MatrixOperator(torch.diag(torch.as_tensor(values.copy())))


def pair(value, residual, gap=1.0, **changed):
    return Eigenvalue(value, residual, gap, True, tolerance=Tolerance(1e-2), **changed)


def test_the_residual_is_stated_as_soon_as_it_is_within_the_tolerance():
    assert pair(1.0, 5e-3).stated_error == 5e-3 and pair(1.0, 5e-3).bound_kind == "linear"
    assert pair(1.0, 3e-2).stated_error == 1e-2 and pair(1.0, 3e-2).bound_kind == "quadratic"
    assert pair(1.0, 0.2).stated_error == MARGIN * 0.2 and pair(1.0, 0.2, gap=0.0).stated_error == 0.2
    assert pair(1.0, 3e-2).converged and not pair(1.0, 0.2).converged
    assert pair(1.0, 5e-3, separation=1.0).stated_error == MARGIN * 5e-3  # a full check has seen its neighbours


def test_room_is_left_for_a_neighbour_that_is_hidden():
    assert pair(1.0, 1e-6).stated_error == HIDDEN * 1e-6
    assert pair(1.0, 5e-4).stated_error == EMERGED * 1e-2
    assert pair(1.0, 0.0).stated_error == 0.0
    assert Eigenvalue(0.0, 1e-6, 1.0, True, tolerance=Tolerance(1e-2)).stated_error == MARGIN * 1e-6


@pytest.mark.parametrize(("which", "k", "values", "expected"), [
    ("la", 3, [1.0, 0.9995, 0.5], [0.0, 5e-4, 0.0]),
    ("sa", 3, [0.5, 0.9995, 1.0], [0.0, 0.0, 5e-4]),
    ("lm", 3, [-1.0, 0.9995, 0.9992], [0.0, 5e-4, 8e-4]),
    ("be", 2, [1.0, 0.9995, -0.9995, -1.0], [0.0, 5e-4, 5e-4, 0.0]),
    ("be", 2, [1.0, 0.9995, 0.9990, 0.9985], [0.0, 5e-4, 5e-4, 0.0]),
])  # fmt: skip
def test_a_rank_may_belong_to_a_value_before_it(which, k, values, expected):
    told = in_turn([pair(value, 1e-9) for value in values], which, k)
    assert [each.to_outer for each in told] == pytest.approx(expected, abs=1e-12)


def test_rounding_is_added_to_what_is_stated():
    made = PairErrors(1e-7, 0.0, Tolerance(1e-3)).eigenvalue(1.0, 1e-4, 1.0, 2.0)
    assert made.error_bound == pytest.approx(1e-4 + made.rounding) and made.converged


def test_a_fresh_start_goes_on_in_little_room():
    """A second copy, of which the rows know nothing, needs more products than there is room for vectors."""
    rows = torch.zeros(2, len(TWICE), dtype=torch.float64)
    rows[0, 200] = rows[1, 202] = 1.0
    fresh = FreshStart(operator_of(TWICE), rows, np.diag([0.6, 0.59]), 5, (0,), keep_for(1, "la"))
    for _ in range(5):
        fresh.step()
    before = fresh.ends((1.0,), 1e-3)[1.0]
    for _ in range(30):
        fresh.step()
    assert fresh.own_pairs.values[-1] == pytest.approx(0.6, abs=1e-5)
    assert fresh.joint_pairs().values[-2:] == pytest.approx([0.6, 0.6], abs=1e-5)
    assert fresh.lanczos.recurrence is None and fresh.ends((1.0,), 1e-3)[1.0] == before > 0.6
    assert fresh.reach(1.0, 1e-3) == pytest.approx(0.6, abs=1e-2)


@pytest.mark.parametrize("seed", [0, 1, 4])
def test_a_stop_within_a_fresh_start_changes_nothing(seed):
    def found(observer):
        return eigenvalues(operator_of(TWICE), 2, seed=seed, independent_start=True, observer=observer)

    whole, stops = stopped_at_each_look(found)
    assert np.abs(np.array(whole.values) - 0.6).max() < 1e-4
    assert whole.cost.check_hvps >= 6 and stops >= 3


@pytest.mark.parametrize("seed", [0, 1])
def test_a_stop_within_a_fresh_start_beside_deflated_vectors(seed):
    operator = operator_of(np.r_[TWICE, 0.9, 0.8])
    deflated = torch.eye(operator.space.dim, dtype=torch.float64)[-2:]

    def found(observer):
        return eigenvalues(operator, 2, seed=seed, deflated=deflated, observer=observer)

    whole, stops = stopped_at_each_look(found)
    assert np.abs(np.array(whole.values) - 0.6).max() < 1e-4 and stops >= 2


@pytest.mark.parametrize("num", [20, 24, 40])
def test_a_fresh_start_lies_within_the_budget(num, monkeypatch):
    """A long search in little room, whose fresh start would take 15 % of its products in vectors."""
    made = []

    class Watched(FreshStart):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(len(self.lanczos.basis))

    monkeypatch.setattr(missed_eigenvalues, "FreshStart", Watched)
    monkeypatch.setattr(request, "SMALL_BASIS", 0)
    operator = operator_of(np.sort(np.random.default_rng(0).random(400)))
    budget = num * operator.space.vector_bytes
    result = eigenvalues(operator, 2, rtol=1e-2, memory_budget=budget)
    asked = request.Request(2, "la", memory_budget=budget)
    held = request.basis_size(operator.space, asked) + 1
    assert result.cost.num_hvps > 60 and made
    assert max(made) + held + 2 + 1 <= num + 1  # the one that is multiplied


def test_a_stop_within_a_fresh_start_beside_a_basis_on_the_host(monkeypatch):
    monkeypatch.setattr(eigenvalues_by_lanczos, "storage_for", lambda *_: "host")
    whole, stops = stopped_at_each_look(lambda observer: eigenvalues(operator_of(TWICE), 2, observer=observer))
    assert whole.basis == "host" and stops >= 2
