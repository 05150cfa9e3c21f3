"""How often two numbers are told apart: equal ones at most one time in twenty, others that differ nearly always."""

import functools
import math

import numpy as np
import pytest
from scipy import stats

from curvtool.report import numbers
from curvtool.report.difference import difference_of

LEVEL = 0.05
NUM = 600


def differs(first, other):
    """Of two numbers alone."""
    found = difference_of(first, other)
    return found.exceeds if found.p_value is None else found.p_value < LEVEL


def rate_of(draw, num=NUM, seed=0):
    """How often the pairs that are drawn are told apart."""
    rng = np.random.default_rng(seed)
    return np.mean([differs(*draw(rng)) for _ in range(num)])


def at_most(level, num):
    """A rate of a test at this level, by chance, but for once in a thousand times."""
    return level + 3.1 * math.sqrt(level * (1 - level) / num)


def by_probes(rng, stderr, degrees, true=0.0, arithmetic=0.0):
    """An estimate as probes give it: its standard error is itself an estimate."""
    own = stderr * math.sqrt(rng.chisquare(degrees) / degrees)
    return numbers.estimate(rng.normal(true, stderr), own, degrees, arithmetic)


PAIRS = [((1, 1), (2, 2)), ((1, 3), (3, 20)), ((3, 1), (3, 20)), ((1, 0.1), (6, 2))]


@pytest.mark.parametrize(("stderrs", "degrees"), PAIRS)
def test_equal_numbers_by_few_probes(stderrs, degrees):
    rate = rate_of(lambda rng: [by_probes(rng, s, d) for s, d in zip(stderrs, degrees, strict=True)])
    assert rate <= at_most(LEVEL, NUM)


@pytest.mark.parametrize(("degrees", "least"), [(4, 0.6), (10, 0.7), (1000, 0.8)])
def test_three_standard_errors_are_seen(degrees, least):
    """Of the difference; known standard errors would show 85 %."""
    rate = rate_of(lambda rng: [by_probes(rng, 1, degrees, true) for true in (0, 3 * math.sqrt(2))])
    assert least <= rate <= 0.9


def test_no_difference_below_the_rounding():
    def draw(rng):
        return [numbers.estimate(rng.uniform(-1, 1), 1e-9, 10, arithmetic=1.0) for _ in range(2)]

    assert rate_of(draw, 100) == 0.0
    apart = [numbers.estimate(value, 1e-9, 10, arithmetic=1.0) for value in (0.0, 2.1)]
    assert differs(*apart)


def test_bounds_beside_estimates():
    """An exact number and one by probes; the exact one's bound is taken off first."""
    assert rate_of(lambda rng: [numbers.bound(0.5, 0.5), by_probes(rng, 1, 5)]) <= at_most(LEVEL, NUM)
    assert not differs(numbers.bound(0.0, 1.0), numbers.bound(1.9, 1.0))
    assert differs(numbers.bound(0.0, 1.0), numbers.bound(2.1, 1.0))


@functools.cache
def tails_of(degrees):
    """What chi-square over its degrees lies above with 97.5 and 2.5 %."""
    return [stats.chi2.isf(p, degrees) / degrees for p in (0.025, 0.975)]


def of_a_norm(rng, degrees, true=1.0):
    """A Frobenius norm from chi-square, with its equal-tailed interval: longer above."""
    square = true**2 * rng.chisquare(degrees) / degrees
    ends = [math.sqrt(square / tail) for tail in tails_of(degrees)]
    return numbers.interval(math.sqrt(square), tuple(ends))


@pytest.mark.parametrize("degrees", [(5, 5), (16, 16), (4, 40)])
def test_equal_norms_with_intervals_longer_on_one_side(degrees):
    assert rate_of(lambda rng: [of_a_norm(rng, d) for d in degrees]) <= at_most(LEVEL, NUM)


def test_norms_that_differ():
    """By three standard errors of the difference, 0.09 and 0.14."""
    assert rate_of(lambda rng: [of_a_norm(rng, 60, true) for true in (1.0, 1.5)]) >= 0.75


def test_bounds_within_an_interval_add_up():
    """A share whose nodes leave much open, one way in one run, the other way in the other."""

    def draw(rng):
        found = []
        for bias in (-0.2, 0.2):
            middle = 0.5 + bias + rng.normal(0, 0.02)
            least, most = middle - 0.2, middle + 0.2
            found.append(numbers.interval(middle, (least - 0.04, most + 0.04), (least, most)))
        return found

    assert rate_of(draw) <= at_most(LEVEL, NUM)
