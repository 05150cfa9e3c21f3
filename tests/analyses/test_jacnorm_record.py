"""What a report holds of Jacobian norms."""

import numpy as np
import pytest

from curvtool.analyses.jacnorm.recording import _histogram


@pytest.mark.parametrize("values", [[0.0, 0.0], [7.0], [7.0, 7.0 + 1e-15, 7.0 - 1e-15], [1e-300, 1e-300 + 1e-313]])
def test_values_that_differ_by_rounding_alone_are_one_bin(values):
    found = _histogram(np.array(values))
    assert found.counts == [len(values)] and found.edges[0] <= min(values) and max(values) <= found.edges[1]


def test_a_histogram_counts_all():
    values = np.random.default_rng(0).normal(size=1000) ** 2
    found = _histogram(values)
    assert sum(found.counts) == 1000 and len(found.edges) == len(found.counts) + 1 > 10
