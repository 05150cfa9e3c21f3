"""How often `compare` says that other data would not explain a difference, between independent samples of one law."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pairs_of_runs import MOST_ALARMS
from test_coverage_of_jacobian_norms import linear, matrix
from test_coverage_of_population import covariance, logistic

from curvtool import MatrixOperator, eigenvalues, jacobian_norms
from curvtool.analyses.eigs.recording import eigenvalue_record
from curvtool.analyses.jacnorm.recording import jacnorm_record
from curvtool.analyses.jacnorm.settings import Settings as JacnormSettings
from curvtool.report import numbers
from curvtool.report.difference import difference_of
from curvtool.report.numbers import LEVEL

LAWS = {
    "outliers": lambda: covariance([10, 5, 3] + [1] * 37),
    "noise": lambda: covariance([1.0] * 40),
    "one above wide noise": lambda: covariance([3.0] + [1.0] * 150),
    "power law": lambda: covariance([10 / (i + 1) for i in range(40)]),
    "logistic regression": logistic,
}


def of_sample(parts, num, seed):
    """The two largest eigenvalues of a sample's matrix, as a report holds them."""
    operator = MatrixOperator(parts(torch.Generator().manual_seed(seed), num, 8))
    records = [eigenvalue_record(pair) for pair in eigenvalues(operator, 2, rtol=1e-3, seed=1).eigenvalues]
    listed = SimpleNamespace(
        kind="eigs",
        operator="hessian",
        which="la",
        eigenvalues=records,
        per_layer=None,
        certificate=None,
        rtol=1e-3,
        atol=0.0,
    )
    return [number.value for number in numbers.numbers_of_analysis(listed, 1e-12)]


def alarms_over_samples(parts, sizes, num):
    pairs = [
        zip(*(of_sample(parts, size, 10 * seed + i) for i, size in enumerate(sizes)), strict=True)
        for seed in range(num)
    ]
    found = [[difference_of(*pair).p_data for pair in each] for each in pairs]
    return (np.array(found) < LEVEL).mean(0)


def alarms_over_norms(kind, num_examples, num):
    """A linear model has the same Jacobian at all examples: all that differs is due to the probes."""

    def of_seed(seed):
        result = jacobian_norms(
            linear(matrix(kind), num_examples), norm="frobenius", max_exact_outputs=0, top=0, seed=seed
        )
        record = jacnorm_record(result, JacnormSettings(norm="frobenius"), None, 0, False, {})
        return next(each.value for each in numbers.numbers_of_analysis(record, 1e-12) if each.name.startswith("mean"))

    found = [difference_of(of_seed(2 * seed), of_seed(2 * seed + 1)).p_data for seed in range(num)]
    stated = [p for p in found if p is not None]
    return np.mean(np.array(stated) < LEVEL) if stated else 0.0


def test_a_larger_sample_with_a_smaller_bias():
    """Its largest eigenvalue lies lower, whatever the data: the edge of noise."""
    parts, _ = LAWS["noise"]()
    assert max(alarms_over_samples(parts, (64, 1024), 20)) <= 0.1


def test_a_shifted_sample_is_told_apart():
    """By six standard errors, where the biases are alike."""
    parts, _ = LAWS["outliers"]()
    first, other = (of_sample(parts, 512, seed)[0] for seed in (1, 2))
    ends = ("value", "low", "least", "most", "high")
    by = 6 * first.data_stderr
    moved = other.model_copy(update={name: getattr(other, name) + by for name in ends})
    assert difference_of(first, moved).p_data < 0.01 < difference_of(first, other).p_data


def test_the_error_of_the_probes_is_no_difference_of_the_data():
    assert alarms_over_norms("flat", 40, 30) <= 0.1


def test_without_a_known_bias_nothing_is_said():
    parts, _ = LAWS["outliers"]()
    first, other = (of_sample(parts, 128, seed)[0] for seed in (1, 2))
    assert difference_of(first, other.model_copy(update={"data_bias": None})).p_data is None


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(128, 128), (128, 1024), (64, 2048)])
@pytest.mark.parametrize("law", LAWS)
def test_samples_of_other_sizes(law, sizes):
    parts, _ = LAWS[law]()
    found = alarms_over_samples(parts, sizes, 300)
    print(law, sizes, found)
    assert max(found) <= MOST_ALARMS


@pytest.mark.slow
@pytest.mark.parametrize("num_examples", [5, 40])
@pytest.mark.parametrize("kind", ["flat", "power law 2", "rank 1", "one-hot rows"])
def test_norms_that_are_all_alike(kind, num_examples):
    assert alarms_over_norms(kind, num_examples, 200) <= 0.12  # of few pairs is there any spread
