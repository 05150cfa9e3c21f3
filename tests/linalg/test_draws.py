"""Random signs: the same wherever and however they are drawn, and without a pattern."""

import numpy as np
import pytest
import torch

from curvtool.linalg.space import VectorSpace


def signs(*seeds, rows, dim=100):
    return VectorSpace(dim, torch.float64, "cpu").signs(*seeds, rows=rows)


def reference(key, row, dim):
    """SplitMix64 in Python's integers."""
    mask, golden = 2**64 - 1, 0x9E3779B97F4A7C15

    def mixed(z):
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    start = mixed((key + (row + 1) * golden) & mask)
    words = [mixed((start + (place // 64 + 1) * golden) & mask) for place in range(dim)]
    return [2 * ((word >> (place % 64)) & 1) - 1 for place, word in enumerate(words)]


def test_published_generator():
    """The first output of SplitMix64 from the state 1234567 is 6457827717110365317 (its authors' own test)."""
    key = int(np.random.SeedSequence([3, 1]).generate_state(1, np.uint64)[0])
    assert signs(3, 1, rows=range(5, 6), dim=150)[0].tolist() == reference(key, 5, 150)
    state, golden = 1234567, 0x9E3779B97F4A7C15
    z = (state + golden) & (2**64 - 1)
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    assert z ^ (z >> 31) == 6457827717110365317


def test_a_row_depends_on_its_number_alone():
    together = signs(7, 2, rows=range(9))
    assert torch.equal(together[4:6], signs(7, 2, rows=range(4, 6)))
    assert not torch.equal(together, signs(7, 3, rows=range(9)))
    float32 = VectorSpace(100, torch.float32, "cpu").signs(7, 2, rows=range(9))
    assert torch.equal(float32.double(), together)


@pytest.mark.parametrize("dim", [1, 63, 64, 65, 1000])
def test_signs_alone(dim):
    drawn = signs(1, rows=range(2), dim=dim)
    assert drawn.shape == (2, dim) and bool((drawn.abs() == 1).all())


def test_no_pattern():
    """Means, pairs of coordinates, rows and passes: within what chance gives."""
    num, dim = 4000, 130
    drawn = signs(5, rows=range(num), dim=dim).numpy()
    assert np.abs(drawn.mean(0)).max() * num**0.5 < 4.5
    pairs = drawn.T @ drawn / num - np.eye(dim)
    assert np.abs(pairs).max() * num**0.5 < 5.5
    assert abs((drawn[1:] * drawn[:-1]).mean()) * drawn.size**0.5 < 4.5
    passes = np.stack([signs(5, number, rows=range(1), dim=dim)[0].numpy() for number in range(1000)])
    assert abs((passes[1:] * passes[:-1]).mean()) * passes.size**0.5 < 4.5
