"""Quantiles against SciPy, and the error probability that looks may spend."""

import pytest
from scipy import stats

from curvtool.linalg.intervals import look_error, student_t_quantile


@pytest.mark.parametrize("degrees", [1.0, 2.0, 2.5, 3.0, 4.7, 10.0, 33.3, 200.0, 1e5, 1e9])
@pytest.mark.parametrize("probability", [0.9, 0.975, 0.99, 0.999, 0.99995])
def test_student_quantile(degrees, probability):
    true = stats.t.ppf(probability, degrees)
    found = student_t_quantile(probability, degrees)
    assert found == pytest.approx(true, rel=2e-3)


def test_looks_spend_no_more_than_alpha():
    assert sum(look_error(look) for look in range(60)) == pytest.approx(0.05, rel=1e-9)
