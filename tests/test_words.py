"""Counts in words."""

import pytest

from curvtool.words import counted


@pytest.mark.parametrize(
    ("value", "noun", "told"),
    [
        (0, "sample", "0 samples"),
        (1, "sample", "1 sample"),
        (1797, "sample", "1,797 samples"),
        (1, "pass", "1 pass"),
        (2, "pass", "2 passes"),
        (2, "batch", "2 batches"),
        (3, "entry", "3 entries"),
        (2, "key", "2 keys"),
        (1, "random vector", "1 random vector"),
    ],
)
def test_one_is_singular(value, noun, told):
    assert counted(value, noun) == told


def test_of_what_is_printed():
    """1.04 is printed as 1."""
    assert counted(1.0, "product", "g") == "1 product" and counted(1.5, "product", "g") == "1.5 products"
    assert counted(1.04, "product", ".1f") == "1.0 products" and counted(1.04, "product", ".1g") == "1 product"
