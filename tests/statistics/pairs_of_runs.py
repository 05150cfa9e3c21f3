"""How often `compare` tells apart runs with other seeds, and runs of something else."""

import math

import numpy as np

from curvtool.report.difference import difference_of
from curvtool.report.numbers import LEVEL

MOST_ALARMS = 0.05 + 3.1 * (0.05 * 0.95 / 300) ** 0.5  # of 300 pairs: by chance one test of 1,000 has more


def differs(first, other):
    """Of two numbers alone."""
    found = difference_of(first, other)
    return found.exceeds if found.p_value is None else found.p_value < LEVEL


def shifted(value, by):
    ends = ("value", "low", "least", "most", "high")
    return value.model_copy(update={name: getattr(value, name) + by for name in ends})


def measured(run, num):
    """How often pairs of seeds are told apart, and where the true difference is three of its standard errors.

    Where bounds or rounding are larger these take its place; where nothing is random, the second is NaN.

    Args:
        run: the numbers by name, as a report holds them, from a seed.
        num: of pairs.
    """
    runs = [run(seed) for seed in range(2 * num)]
    found = {}
    for name in runs[0]:
        pairs = [(runs[i][name], runs[num + i][name]) for i in range(num)]
        deviation = 2**0.5 * float(np.std([run[name].value for run in runs], ddof=1))
        deviation = max(deviation, *(run[name].most - run[name].value for run in runs))
        alarms = np.mean([differs(*pair) for pair in pairs])
        if deviation <= 1e-9 * max(abs(run[name].value) for run in runs):
            found[name] = alarms, math.nan
            continue
        moved = [(a, shifted(b, 3 * deviation)) for a, b in pairs]
        found[name] = alarms, np.mean([differs(*pair) for pair in moved])
    return found
