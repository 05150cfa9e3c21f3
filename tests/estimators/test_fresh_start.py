"""What a fresh start beside a search tells."""

import numpy as np
import pytest

from curvtool.estimators.fresh_start import has_risen
from curvtool.linalg.ritz import RitzPairs


def pairs(*values):
    values = np.sort(np.array(values))
    return RitzPairs(values, np.eye(len(values)), np.zeros(len(values)))


@pytest.mark.parametrize(
    ("before", "joint", "which", "expected"),
    [
        ((9, 8, 1, 0.5), (9, 8, 1, 0.9, 0.5), "la", False),  # a value between others, far from the wanted ones
        ((9, 8, 3, 1, 0.5), (9, 8, 6, 1, 0.5), "la", True),  # the next one is on its way
        ((9, 8, 1, 0.5), (9, 8, 7.9, 1, 0.5), "la", True),  # a new one
        ((9, 8, 1, 0.5), (9, 8, 1, 0.5, -7), "la", False),  # at the other end
        ((9, 8, 1, -4, -5), (9, 8, 1, -3.9, -4, -5), "be", True),
        ((9, 8, 1, -4, -5), (9, 8, 1, -4, -5), "be", False),
        ((-9, -8, -1, 0), (-9, -8, -7, -1, 0), "sa", True),
        ((9, -8, 1, 0), (9, 7, 1, 0, -8), "lm", True),
        ((9, 8, 8), (9, 8, 8 + 1e-9), "la", False),  # rounding alone
        ((9, 8), (9, 8, 7), "la", False),  # nothing to compare with
    ],
)
def test_an_unwanted_value_on_its_way_to_the_wanted_ones_is_noticed(before, joint, which, expected):
    assert has_risen(pairs(*before), pairs(*joint), 2, which, slack=1e-6) is expected
