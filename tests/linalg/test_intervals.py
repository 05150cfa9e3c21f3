"""Quantiles against SciPy, and the error probability that looks may spend."""

import math

import numpy as np
import pytest
from scipy import stats

from curvtool.linalg.intervals import chi_square_quantile, look_error, stratified_interval, student_t_quantile


@pytest.mark.parametrize("degrees", [1.0, 2.0, 2.5, 3.0, 4.7, 10.0, 33.3, 200.0, 1e5, 1e9])
@pytest.mark.parametrize("probability", [0.9, 0.975, 0.99, 0.999, 0.99995])
def test_student_quantile(degrees, probability):
    true = stats.t.ppf(probability, degrees)
    found = student_t_quantile(probability, degrees)
    assert found == pytest.approx(true, rel=2e-3)


@pytest.mark.parametrize("probability", [1e-8, 1e-4, 0.025, 0.5, 0.975, 0.9999, 1 - 1e-8])
def test_chi_square_quantile(probability):
    degrees = np.array([1.0, 2.5, 8.0, 12.0, 40.0, 999.0, 3e4, 1e9])
    true = stats.chi2.ppf(probability, degrees) / degrees
    assert chi_square_quantile(probability, degrees) == pytest.approx(true, rel=1e-5)
    assert chi_square_quantile(probability, np.array([math.inf]))[0] == 1.0


def test_looks_spend_no_more_than_alpha():
    assert sum(look_error(look) for look in range(60)) == pytest.approx(0.05, rel=1e-9)


def test_interval_of_one_stratum_is_students():
    draws = np.random.default_rng(0).normal(3, 2, size=(12, 1))
    interval = stratified_interval(draws, look=0)
    low, high = stats.t.interval(1 - look_error(0), 11, draws.mean(), draws.std(ddof=1) / math.sqrt(12))
    assert interval.bounds == pytest.approx((low, high), rel=2e-3)
    assert interval.degrees == pytest.approx(11)


def test_strata_are_told_apart():
    """Strata of different means and no spread within leave no uncertainty."""
    draws = np.tile([[1.0, 100.0, -7.0]], (5, 1))
    interval = stratified_interval(draws, look=0)
    assert interval.value == 94.0 and interval.half_width == 0.0


def test_degrees_of_equal_strata_add_up():
    draws = np.random.default_rng(1).normal(size=(4, 5000))
    assert stratified_interval(draws, 0).degrees == pytest.approx(3 * 5000 * 3 / 5, rel=0.1)  # chi-square kurtosis
