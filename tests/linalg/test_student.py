"""Student's t against SciPy, also far in the tail and for few or fractional degrees."""

import math

import pytest
from scipy import stats

from curvtool.linalg import student
from curvtool.linalg.intervals import student_t_quantile

DEGREES = [0.3, 1.0, 1.7, 2.0, 3.5, 12.0, 200.0, 1e5, 1e9, math.inf]


@pytest.mark.parametrize("degrees", DEGREES)
@pytest.mark.parametrize("t", [0.0, 1e-9, 0.1, 1.0, 1.96, 5.0, 40.0, 1e6])
def test_tail(t, degrees):
    wanted = 2 * (stats.norm.sf(t) if degrees > 1e7 else stats.t.sf(t, degrees))
    assert student.two_sided(t, degrees) == pytest.approx(wanted, rel=1e-8, abs=1e-300)
    assert student.two_sided(-t, degrees) == student.two_sided(t, degrees)


@pytest.mark.parametrize("degrees", DEGREES)
@pytest.mark.parametrize("probability", [0.9, 0.05, 1e-3, 1e-9])
def test_quantile(degrees, probability):
    wanted = stats.norm.isf(probability / 2) if degrees > 1e7 else stats.t.isf(probability / 2, degrees)
    assert student.quantile(probability, degrees) == pytest.approx(wanted, rel=1e-8)


@pytest.mark.parametrize("degrees", [2.0, 5.5, 30.0, 1e4])
def test_the_same_as_the_interval_takes(degrees):
    assert student.quantile(0.05, degrees) == pytest.approx(student_t_quantile(0.975, degrees), rel=1e-3)


def test_no_value_is_too_far():
    assert student.two_sided(math.inf, 3) == 0.0
