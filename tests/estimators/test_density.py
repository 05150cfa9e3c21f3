"""The spectral density against dense eigenvalues."""

import math

import numpy as np
import pytest
import torch
from cases import CASES
from oracles import dense_hessian, integral
from test_trace import digits_terms

from curvtool import CurvtoolError, Hessian, Interrupted, MatrixOperator, density, eigenvalues


@pytest.fixture(scope="module")
def whole():
    return MatrixOperator(torch.stack(digits_terms()).sum(0))


def smoothed_truth(values, grid, width):
    distances = (grid[:, None] - np.asarray(values)) / width
    return np.exp(-(distances**2) / 2).mean(1) / (width * math.sqrt(2 * math.pi))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_case(case):
    """Many probes of full length: the density, the distribution and the trace of the dense eigenvalues; and the
    Hessian's products give what the dense matrix gives by the same probes."""
    dense = dense_hessian(case)
    true, whole = torch.linalg.eigvalsh(dense).numpy(), MatrixOperator(dense)
    result = density(whole, num_probes=40, num_steps=len(true), method="probes")
    few = {"num_probes": 2, "num_steps": 8, "method": "probes", "width": result.width, "near": result.near}
    ours, theirs = density(Hessian(case.problem(), batch_size=3), **few), density(whole, **few)
    scale = abs(true).max()
    for one, other in zip(ours.quadratures, theirs.quadratures, strict=True):
        assert np.allclose(one.nodes, other.nodes, atol=1e-7 * scale)
        assert np.allclose(one.weights, other.weights, atol=1e-6)
    assert ours.trace == pytest.approx(theirs.trace, abs=1e-7 * scale * len(true))
    assert abs(result.trace - true.sum()) <= 5 * result.trace_stderr + 1e-8 * abs(true).sum()
    curve = smoothed_truth(true, result.grid, result.width)
    # the largest of 500 points, whose squares are skewed: up to 6.9 was seen in 40 runs
    assert np.all(abs(result.density - curve) <= 8 * result.density_stderr + 1e-6 * curve.max())
    assert integral(result.density, result.grid) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_small_matrix_is_taken_whole(case):
    true = torch.linalg.eigvalsh(dense_hessian(case)).numpy()
    result = density(Hessian(case.problem(), batch_size=3), num_probes=2, num_steps=-(-len(true) // 2))
    assert result.method == "exact" and result.converged and result.trace_stderr == 0.0 and result.num_probes == 0
    scale = abs(true).max()
    assert np.allclose(result.quadratures[0].nodes, true, atol=1e-8 * scale)
    assert np.allclose(
        result.density, smoothed_truth(true, result.grid, result.width), atol=1e-6 * result.density.max()
    )
    share = np.mean(abs(true) < result.near)
    assert result.near_zero.low == result.near_zero.high == pytest.approx(share)
    assert result.cost.num_hvps == len(true)


def test_the_budget_decides_what_is_small(whole):
    options = {"num_probes": 5, "num_steps": 30}
    assert density(whole, **options).method == "exact"
    assert density(whole, memory_budget=100 * 145 * 8, **options).method == "probes"
    with pytest.raises(Interrupted) as caught:
        density(whole, method="exact", memory_budget=100 * 145 * 8)
    assert "CT006" in str(caught.value.cause)


def test_few_steps_see_the_spectrum(whole):
    true = torch.linalg.eigvalsh(whole.matrix).numpy()
    result = density(whole, num_probes=10, num_steps=40, method="probes")
    curve = smoothed_truth(true, result.grid, result.width)
    distance = integral(abs(result.density - curve), result.grid)
    assert distance <= 0.2 and len(result.quadratures[0].nodes) == 40
    below = np.mean(true[:, None] < result.grid, axis=0)
    within = (result.cumulative_low <= below) & (below <= result.cumulative_high)
    assert within.mean() >= 0.9
    assert np.mean(abs(result.cumulative - below)) <= 0.02


def test_the_band_is_as_wide_as_the_spread(whole):
    """Over 100 seeds: unbiased, and the standard error over the probes is the estimates' own."""
    true = float(whole.matrix.trace())
    results = [density(whole, num_probes=4, num_steps=12, seed=seed) for seed in range(100)]
    errors = np.array([r.trace - true for r in results])
    assert abs(errors.mean()) <= 4 * errors.std() / math.sqrt(100)
    told = math.sqrt(np.mean([r.trace_stderr**2 for r in results]))
    assert 0.78 <= told / errors.std() <= 1.28


def test_outliers_are_placed_exactly(whole):
    pairs = eigenvalues(whole, 6, rtol=1e-10, vector_rtol=1e-6)
    arguments = {"num_probes": 3, "num_steps": 30}
    plain = density(whole, **arguments)
    placed = density(whole, outliers=tuple(pairs.values), outlier_vectors=pairs.vectors, **arguments)
    assert placed.outliers == tuple(pairs.values)
    assert max(q.nodes.max() for q in placed.quadratures) <= min(pairs.values) * (1 + 1e-6)
    assert placed.trace_stderr < 0.5 * plain.trace_stderr
    true = float(whole.matrix.trace())
    assert abs(placed.trace - true) <= 6 * placed.trace_stderr
    top = placed.grid > placed.outliers[0] - 3 * placed.width
    mass = integral(placed.density[top], placed.grid[top])
    assert mass == pytest.approx(1 / 145, rel=0.01)


def test_shares_of_a_known_spectrum():
    values = torch.cat([torch.full((30,), -1.0), torch.zeros(50), torch.linspace(1, 10, 20)]).double()
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(100, 100, generator=generator, dtype=torch.float64))[0]
    result = density(
        MatrixOperator(basis @ torch.diag(values) @ basis.T), num_probes=60, num_steps=40, noise=1e-12, method="probes"
    )
    assert abs(result.below_zero.value - 0.3) <= 4 * result.below_zero.stderr
    assert abs(result.near_zero.value - 0.5) <= 4 * result.near_zero.stderr
    assert 0 < result.below_zero.stderr < 0.02 and result.below_zero.low <= 0.3 <= result.below_zero.high


def test_a_zero_matrix_and_one_probe():
    zero = density(MatrixOperator(torch.zeros(5, 5, dtype=torch.float64)), num_probes=2, method="probes")
    assert zero.trace == 0.0 and zero.below_zero.value == 0.0 and np.isfinite(zero.density).all()
    one = density(MatrixOperator(torch.eye(5, dtype=torch.float64)), num_probes=1, method="probes")
    assert one.trace == pytest.approx(5.0) and one.trace_ci95 == pytest.approx((5.0, 5.0))


def test_the_budget_limits_the_steps(whole):
    result = density(whole, num_probes=2, num_steps=50, memory_budget=14 * 145 * 8)
    assert result.num_steps == 12 and not result.converged  # fifty were asked for


class Stopping(MatrixOperator):
    """Ctrl-C after so many products."""

    def __init__(self, terms, most, block_width):
        super().__init__(terms)
        self.most, self.width = most, block_width

    @property
    def block_width(self):
        return self.width

    def matvec(self, vector):
        if self.num_products >= self.most:
            raise KeyboardInterrupt
        return super().matvec(vector)


@pytest.mark.parametrize(
    ("width", "most", "probes", "steps"),
    [(1, 45, 2, 20), (1, 15, 1, 15), (4, 50, 4, 12), (3, 70, 3, 20)],
)
def test_a_stop_keeps_the_probes_that_were_made(width, most, probes, steps, whole):
    with pytest.raises(Interrupted) as caught:
        density(Stopping(whole.matrices, most, width), num_probes=4, num_steps=20, method="probes")
    partial = caught.value.partial
    assert partial.num_probes == probes and partial.num_steps == steps and not partial.converged
    assert integral(partial.density, partial.grid) == pytest.approx(1.0, abs=1e-3)


def test_a_stop_before_ten_steps_has_nothing_to_keep(whole):
    with pytest.raises(Interrupted) as caught:
        density(Stopping(whole.matrices, 9, 1), num_probes=4, num_steps=20, method="probes")
    assert caught.value.partial is None


def test_probes_in_step_give_the_same_numbers(whole):
    one, several = (density(Stopping(whole.matrices, 10**6, width), num_steps=15, method="probes") for width in (1, 3))
    assert np.allclose(one.density, several.density) and one.trace == pytest.approx(several.trace)


@pytest.mark.parametrize(
    "arguments",
    [{"num_probes": 0}, {"num_steps": 1}, {"width": -1.0}, {"near": 0.0}, {"method": "svd"}, {"outliers": (1.0,)}],
)
def test_senseless_arguments_are_refused(whole, arguments):
    with pytest.raises(CurvtoolError, match="CT001"):
        density(whole, **arguments)


def rotated(values, seed=0):
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator, dtype=torch.float64))[0]
    return basis @ torch.diag(torch.as_tensor(values, dtype=torch.float64)) @ basis.T


def test_rounding_makes_no_negative_eigenvalues():
    """In float32 the zeros of a positive semidefinite matrix come out on both sides of zero."""
    matrix = rotated(np.r_[np.zeros(280), np.linspace(0.5, 3.0, 20)]).float()
    for seed in range(5):
        result = density(MatrixOperator((matrix + matrix.T) / 2), num_steps=40, method="probes", near=0.1, seed=seed)
        nodes = np.concatenate([q.nodes for q in result.quadratures])
        assert result.threshold > 1.9 * max(-nodes.min(), 0.0) and result.below_zero.low == 0.0
        assert result.below_zero.high < 0.1 and result.near_zero.low <= 280 / 300 <= result.near_zero.high


@pytest.mark.parametrize("values", [[2.0], [0.0], [-1.0, 1.0], [0.0, 0.0, 3.0], [1.0, 1.0, 1.0]])
@pytest.mark.parametrize("num_probes", [1, 4])
def test_the_smallest_matrices(values, num_probes):
    result = density(MatrixOperator(rotated(values)), num_probes=num_probes, method="probes", near=0.5, seed=4)
    shares = {"below_zero": np.mean(np.array(values) < 0), "near_zero": np.mean(np.abs(values) < 0.5)}
    for name, share in shares.items():
        mass = getattr(result, name)
        assert 0.0 <= mass.low <= share + 1e-12 and share - 1e-12 <= mass.high <= 1.0 and mass.low <= mass.value
    low, high = result.trace_ci95
    assert low - 1e-9 <= sum(values) <= high + 1e-9
    assert np.isfinite(result.density_high).all() and (result.density_low <= result.density_high).all()
    assert (np.diff(result.cumulative_low) >= -1e-12).all() and (result.cumulative_high <= 1 + 1e-12).all()


def test_an_eigenvalue_at_the_end_of_a_range_counts_for_neither_side():
    values = np.repeat([-1.0, 0.5, 1.0], [20, 40, 40])
    for method in ("probes", "exact"):
        mass = density(MatrixOperator(rotated(values)), method=method, near=1.0).near_zero
        assert mass.low <= 0.4 + 1e-12 and mass.high >= 1.0 - 1e-12


def test_outliers_are_counted_in_the_shares():
    values = np.r_[-50.0, -40.0, 60.0, np.repeat([-0.1, 0.2], [30, 67])]
    matrix = rotated(values)
    order, vectors = torch.linalg.eigh(matrix)
    chosen = [0, 1, 99]
    result = density(
        MatrixOperator(matrix), num_steps=20, method="probes", near=1.0,
        outliers=tuple(order[chosen].tolist()), outlier_vectors=vectors[:, chosen].T.contiguous(),
    )  # fmt: skip
    assert result.below_near.low == result.below_near.high == pytest.approx(0.02)
    assert result.near_zero.low == result.near_zero.high == pytest.approx(0.97)
    assert result.below_zero.low <= 0.32 <= result.below_zero.high and result.below_zero.high < 0.5
    assert result.trace_ci95[0] <= values.sum() <= result.trace_ci95[1]
    assert result.trace_ci95[1] - result.trace_ci95[0] < 4


def test_one_probe_has_an_error(whole):
    result = density(whole, num_probes=1, num_steps=30, method="probes")
    assert result.trace_stderr > 0 and result.below_zero.high > result.below_zero.low
    assert result.trace_ci95[0] < result.trace < result.trace_ci95[1]
