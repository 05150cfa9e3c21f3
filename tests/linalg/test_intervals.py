"""Quantiles against SciPy, and the error probability that looks may spend."""

import math

import numpy as np
import pytest
from scipy import stats

from curvtool.linalg.intervals import chi_square_quantile, look_error, student_t_quantile


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
