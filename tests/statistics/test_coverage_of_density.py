"""How often the density's intervals hold the truth, how wide they are, and how often a comparison is a false alarm."""

import math

import numpy as np
import pytest
import torch
from cases import CASES
from oracles import dense_hessian
from scipy import stats

from curvtool import Hessian, MatrixOperator, density
from curvtool.estimators.accuracy.shares import Form, share_interval
from curvtool.estimators.density_result import smoothed
from curvtool.linalg.intervals import beta_probability
from curvtool.linalg.quadrature import Quadrature
from curvtool.report.difference import difference_of
from curvtool.report.numbers import LEVEL, share_of
from curvtool.report.share import Share

NOMINAL = ("below_zero", "near_zero", "below_near", "trace")
_RNG = np.random.default_rng(7)
_SEMICIRCLE = np.linalg.eigvalsh((lambda a: (a + a.T) / math.sqrt(1200))(_RNG.standard_normal((300, 300))))
# eigenvalues, what is near zero, Lanczos steps; where eigenvalues lie apart from the ends, the probes' law decides
SPECTRA = {
    "two clusters": (np.r_[-1 + 0.01 * _RNG.standard_normal(100), 1 + 0.01 * _RNG.standard_normal(200)], 0.5, 30),
    "power law": (np.arange(1, 301) ** -1.5 * np.where(np.arange(300) % 5, 1, -1), 0.01, 30),
    "semicircle": (_SEMICIRCLE, 0.3, 30),
    "many zeros": (np.r_[np.zeros(240), np.linspace(1, 10, 60)], 0.5, 30),
    "two-sided": (np.r_[-10, 10, 0.1 * _RNG.standard_normal(298)], 1.0, 30),
    "rank 1": (np.r_[3.0, np.zeros(299)], 0.5, 10),
    "multiplicities": (np.repeat([-1.0, 0.0, 2.0], [60, 200, 40]), 1e-3, 10),
    "n = 5": (np.array([-2.0, -1.0, 0.0, 1.0, 3.0]), 0.5, 5),
    "n = 20": (np.linspace(-1.0, 3.0, 20), 0.5, 15),
    "clusters and zeros": (np.r_[np.zeros(100), np.repeat([-0.5, 1.0], [20, 180])], 0.1, 20),
}


def truth(values, result):
    """Shares and the trace of these eigenvalues."""
    return {
        "below_zero": np.mean(values < -result.threshold),
        "near_zero": np.mean(np.abs(values) < result.near),
        "below_near": np.mean(values < -result.near),
        "trace": values.sum(),
    }


def ends_of(result, name):
    return result.trace_ci95 if name == "trace" else (getattr(result, name).low, getattr(result, name).high)


def exact_width(name, true, values, num_probes):
    """The width of an interval from the exact law of the mean over the probes."""
    dim = len(values)
    if name == "trace":
        spread = 2 * dim / (dim + 2) * (np.sum(values**2) - values.sum() ** 2 / dim) / num_probes
        return 2 * 1.96 * math.sqrt(spread)
    low, high = stats.beta.interval(0.95, *(max(share, 1e-9) * (num_probes * (dim + 2) / 2 - 1)
                                            for share in (true, 1 - true)))  # fmt: skip
    return high - low


def measured(operator, values, near, steps, num_probes, seeds, **arguments):
    """For every number: how often its interval holds the truth, its median width, and that of the exact law; of the
    curves the share of points; and how often nothing but the steps decides."""
    hits, widths = {name: [] for name in (*NOMINAL, "cumulative", "density")}, {name: [] for name in NOMINAL}
    steps_decide = []
    for seed in range(seeds):
        result = density(
            operator, num_probes=num_probes, num_steps=steps, method="probes", near=near, seed=seed, **arguments
        )
        true = truth(values, result)
        for name in NOMINAL:
            low, high = ends_of(result, name)
            slack = 1e-12 * (1 + abs(true[name]))
            hits[name].append(low - slack <= true[name] <= high + slack)
            widths[name].append(high - low)
        below = np.mean(values[:, None] < result.grid, axis=0)
        slack = 1e-9
        inside = (result.cumulative_low - slack <= below) & (below <= result.cumulative_high + slack)
        hits["cumulative"].append(inside.mean())
        curve = smoothed(Quadrature(np.sort(values), np.full(len(values), 1 / len(values))), result.grid, result.width)
        floor = 0.01 * curve.max()
        tall = curve > floor
        hits["density"].append(np.mean(((result.density_low <= curve) & (curve <= result.density_high))[tall]))
        steps_decide.append([getattr(result, n).most - getattr(result, n).least for n in NOMINAL[:3]])
    exact = {name: exact_width(name, true[name], values, num_probes) for name in NOMINAL}
    return (
        {name: float(np.mean(each)) for name, each in hits.items()},
        {name: float(np.median(each)) for name, each in widths.items()},
        exact,
        np.median(steps_decide, axis=0),
    )


def diagonal(values, dtype=torch.float64):
    """A random vector is the same in every basis."""
    return MatrixOperator(torch.diag(torch.tensor(values, dtype=dtype)))


@pytest.mark.slow
@pytest.mark.parametrize("num_probes", [1, 4])
@pytest.mark.parametrize("name", list(SPECTRA))
def test_intervals_hold_the_truth(name, num_probes):
    values, near, steps = SPECTRA[name]
    hits, widths, exact, _ = measured(diagonal(values), values, near, steps, num_probes, 300)
    print(name, num_probes, hits, widths, exact)
    least = 0.95 - 3 * math.sqrt(0.95 * 0.05 / 300)
    assert all(hits[each] >= least for each in NOMINAL), hits
    assert hits["cumulative"] >= least


@pytest.mark.slow
def test_a_network_in_float32():
    """Its Hessian by products in float32 against the eigenvalues in float64."""
    case = next(each for each in CASES if each.name == "conv-batchnorm")
    values = torch.linalg.eigvalsh(dense_hessian(case)).numpy()
    hits, *_ = measured(Hessian(case.problem(torch.float32)), values, 0.01 * values.max(), 20, 4, 100, noise=1e-6)
    print(hits)
    assert all(hits[each] >= 0.90 for each in NOMINAL), hits


@pytest.mark.parametrize("name", ["two clusters", "rank 1", "n = 5", "multiplicities"])
def test_intervals_hold_the_truth_in_short(name):
    values, near, steps = SPECTRA[name]
    hits, *_ = measured(diagonal(values), values, near, steps, 2, 40)
    assert all(hits[each] >= 0.85 for each in NOMINAL), hits


def drawn(share, num_probes, dim, open_share, rng):
    """A share as a report holds it, from probes drawn by their law, of which the steps leave `open_share` open."""
    count = round(share * dim)
    noise = 1e-17 * rng.random()
    mean = noise + rng.beta(count / 2, (dim - count) / 2, num_probes).mean() if 0 < count < dim else share
    least, most = max(0.0, mean - open_share * rng.random()), min(1.0, mean + open_share * rng.random())
    low, high = (float(x[0]) for x in share_interval(np.array([least]), np.array([most]), num_probes, dim))
    spread = math.sqrt(2 * mean * (1 - mean) / num_probes / (dim + 2))
    return Share(value=min(max(mean, low), high), low=low, high=high, least=least, most=most, stderr=spread)


@pytest.mark.parametrize("dim", [5, 20, 300, 10**6])
@pytest.mark.parametrize("num_probes", [1, 2, 4, 60])
def test_the_law_of_a_share(dim, num_probes):
    """An interval misses in one case of twenty at most, and says no more than the counts that are possible."""
    rng = np.random.default_rng(0)
    for count in {0, 1, dim // 3, dim - 1, dim}:
        means = rng.beta(max(count, 1e-9) / 2, max(dim - count, 1e-9) / 2, (4000, num_probes)).mean(1)
        means = np.full(4000, count / dim) if count in (0, dim) else means
        low, high = share_interval(means, means, num_probes, dim)
        inside = np.mean((low <= count / dim + 1e-9) & (count / dim <= high + 1e-9))
        assert inside >= 0.935, (count, inside)
        assert np.allclose(low * dim, np.round(low * dim), atol=1e-6)
    exact = share_interval(np.array([0.0, 1.0]), np.array([0.0, 1.0]), num_probes, dim)
    assert exact[0][0] == exact[1][0] == 0.0 and exact[0][1] == exact[1][1] == 1.0


def test_the_beta_law():
    for a in (0.5, 1.0, 2.5, 40.0, 1e6):
        for b in (1.0, 2.5, 40.0, 1e6):
            wanted = np.array([0.01, 0.025, 0.5, 0.975, 0.99])
            found = beta_probability(stats.beta.ppf(wanted, a, b), np.array(a), np.array(b))
            assert np.all(abs(found - wanted) <= 0.04 * np.minimum(wanted, 1 - wanted) + 1e-6), (a, b)
    far = beta_probability(np.array([1e-30, 1 - 1e-16]), np.array(30.0), np.array(20.0))
    assert far[0] < 1e-9 and far[1] > 1 - 1e-9


def p_value_of(first, other, dim):
    found = difference_of(share_of(first, 1e-9, dim), share_of(other, 1e-9, dim))
    return float(found.exceeds is False) if found.p_value is None else found.p_value


@pytest.mark.parametrize("open_share", [0.0, 0.02])
@pytest.mark.parametrize(
    ("share", "dim", "num_probes"),
    [(0.4, 300, 4), (0.0, 300, 4), (0.01, 300, 4), (0.4, 20, 60), (0.4, 5, 1), (0.5, 20, 1)],
)
def test_one_in_twenty_comparisons_is_a_false_alarm(share, dim, num_probes, open_share):
    rng = np.random.default_rng(1)
    alarms = [
        p_value_of(*(drawn(share, num_probes, dim, open_share, rng) for _ in range(2)), dim) < LEVEL for _ in range(400)
    ]
    assert np.mean(alarms) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)


@pytest.mark.parametrize(("open_share", "least"), [(0.0, 0.75), (0.005, 0.6)])
def test_a_difference_of_three_standard_errors_is_found(open_share, least):
    rng, dim, num_probes, share = np.random.default_rng(2), 3000, 4, 0.3
    apart = 3 * math.sqrt(2) * math.sqrt(2 * share * (1 - share) / num_probes / dim)
    alarms = [
        p_value_of(*(drawn(each, num_probes, dim, open_share, rng) for each in (share, share + apart)), dim) < LEVEL
        for _ in range(300)
    ]
    assert np.mean(alarms) >= least


FORMS = {
    "rank 1": np.r_[1.0, np.zeros(299)],
    "a pair": np.r_[1.0, -1.0, np.zeros(298)],
    "power law": 1 / np.arange(1, 301),
    "two signs": np.r_[1.0, -0.3, np.zeros(298)],
    "uniform": np.linspace(-1, 1, 300),
    "one far off": np.r_[-10.0, np.linspace(0, 1, 299)],
    "small": np.array([2.0, -1.0, 0.0, 0.5, 0.1]),
}


@pytest.mark.parametrize("num_probes", [1, 4])
@pytest.mark.parametrize("name", list(FORMS))
def test_the_law_of_a_trace(name, num_probes):
    """Also of one eigenvalue alone, where the estimates' own spread misses in one case of six."""
    values, rng, inside = FORMS[name], np.random.default_rng(3), []
    for _ in range(600):
        squares = rng.standard_normal((num_probes, len(values))) ** 2
        weights = (squares / squares.sum(1, keepdims=True)).mean(0)
        low, high = Form(values, weights, num_probes, len(values)).interval()
        inside.append(low <= values.mean() <= high)
    assert np.mean(inside) >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / 600)
    assert Form(values, weights, 0, len(values)).interval()[0] == Form(values, weights, 0, len(values)).mean
