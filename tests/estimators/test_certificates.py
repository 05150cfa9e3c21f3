"""Missed ranks and certificates, and what is true of every way to get an eigenvalue."""

import numpy as np
import pytest
import torch

from curvtool import MatrixOperator, eigenvalues
from curvtool.estimators.accuracy.noise import NOISE_OF_PAIRS


def operator_of(values, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator, dtype=torch.float64))
    matrix = (q @ torch.diag(torch.as_tensor(np.asarray(values), dtype=torch.float64)) @ q.T).to(dtype)
    return MatrixOperator((matrix + matrix.T) / 2)


SPECTRA = {
    "outliers": np.r_[np.linspace(0, 1, 90), 3.0, 5, 9],
    "none": np.linspace(-1, 1, 100),
    "repeated": np.r_[np.linspace(0, 1, 90), 4.0, 9, 9, 9],
    "power": np.arange(1, 101.0) ** -1,
    "two-sided": np.r_[np.linspace(-0.5, 1, 90), 3.0, 5, -4, -4],
}


@pytest.mark.parametrize("check", ["none", "fast", "full"])
@pytest.mark.parametrize("which", ["la", "sa", "be", "lm"])
@pytest.mark.parametrize("name", SPECTRA)
def test_beyond_the_limits_every_eigenvalue_is_listed(name, which, check):
    true = np.sort(SPECTRA[name])
    for seed in range(4):
        result = eigenvalues(operator_of(true, seed), 2, which=which, rtol=1e-2, seed=seed, check=check)
        made = result.certificate
        listed = {
            +1: sorted(result.eigenvalues, key=lambda p: -p.value),
            -1: sorted(result.eigenvalues, key=lambda p: p.value),
        }
        assert (made.above is None) == (which == "sa") and (made.below is None) == (which == "la")
        for sign, limit in ((+1, made.above), (-1, made.below)):
            if limit is None:
                continue
            beyond = [v for v in (true[::-1] if sign > 0 else true) if sign * v > sign * limit + 1e-9]
            for value, pair in zip(beyond, listed[sign], strict=False):
                assert abs(value - pair.value) <= pair.error_bound + 1e-2 * abs(pair.value)
            assert len(beyond) <= len(result.eigenvalues)


@pytest.mark.parametrize("check", ["none", "fast", "full"])
@pytest.mark.parametrize("which", ["la", "sa", "be", "lm"])
@pytest.mark.parametrize("left", [1, 2, 3, 5, 9, 40])
def test_limits_beside_vectors_that_were_deflated(left, which, check):
    """The rest may be so small that the search exhausts it: what it saw and did not list counts too."""
    true = np.sort(np.random.default_rng(left).normal(size=43))
    operator = operator_of(true)
    vectors = torch.linalg.eigh(operator.matrix).eigenvectors.T
    for seed, size in ((0, 0.0), (1, 0.0), (2, 1e-3), (3, 0.05)):
        chosen = np.random.default_rng(seed).permutation(43)
        moved = vectors[chosen[left:]] + size * torch.randn(43 - left, 43, dtype=torch.float64) / 43**0.5
        deflated = operator.space.orthonormal(moved)
        forms = torch.einsum("ij,jk,ik->i", deflated, operator.matrix, deflated).numpy()
        k = min(2, left // 2 if which == "be" else left) or 1
        if which == "be" and left < 2:
            continue
        result = eigenvalues(operator, k, which=which, rtol=1e-2, seed=seed, check=check, deflated=deflated)
        made = result.certificate
        for sign, limit in ((+1, made.above), (-1, made.below)) if made is not None else ():
            if limit is not None:
                known = [*result.values, *forms]
                assert (sign * true > sign * limit + 1e-9).sum() <= len(known)
                if not size:
                    rest = true[chosen[:left]]
                    beyond = rest[sign * rest > sign * limit + 1e-9]
                    listed = {round(float(np.abs(true - value).argmin())) for value in result.values}
                    assert {int(np.abs(true - value).argmin()) for value in beyond} <= listed


def test_a_tight_cluster_hardly_ever_hides_a_member():
    """Its members stand a tolerance apart, so that one that is half seen moves no value by more than that."""
    true = np.sort(np.r_[np.linspace(0, 2, 95), 9 + 0.01 * np.arange(5)])[::-1]
    operator, missed = MatrixOperator(torch.diag(torch.as_tensor(true.copy()))), 0
    for seed in range(100):
        pairs = eigenvalues(operator, 2, seed=seed).eigenvalues
        missed += any(abs(pair.value - value) > max(pair.error_bound, 1e-3 * value)
                      for pair, value in zip(pairs, true, strict=False))  # fmt: skip
    assert missed <= 6  # 2 of them; 11 where a fresh start ends after three products


def test_a_full_check_certifies_what_stands_apart():
    result = eigenvalues(operator_of(SPECTRA["outliers"]), 3, check="full")
    assert result.num_missed == 0 and 1 <= result.certificate.above < 1.5
    result = eigenvalues(operator_of(SPECTRA["repeated"]), 3, check="full")
    assert np.allclose(result.values, 9) and 4 <= result.certificate.above < 5


@pytest.mark.parametrize("most", [1, 5, 9, 12, 30, 100])
def test_a_full_check_stays_within_the_products_allowed(most):
    operator = operator_of(np.linspace(0, 1, 300) ** 0.5)
    result = eigenvalues(operator, 4, rtol=1e-6, check="full", max_passes=most)
    assert operator.num_products <= max(most, 5)
    assert not result.converged and not any(pair.converged for pair in result.eigenvalues)


WAYS = {
    "lanczos": {},
    "block": {"block_size": 3},
    "restarts": {"max_basis": 12},
    "bfloat16": {"basis": "bfloat16"},
    "full": {"check": "full"},
    "no check": {"check": "none"},
    "power": {"method": "power", "max_passes": 3000},
    "stopped": {"max_passes": 7},
}


@pytest.mark.parametrize("noise", [None, 1e-4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("way", WAYS)
def test_every_way_states_errors_by_one_rule(way, dtype, noise):
    """Never below a quarter of the residual, the noise of the largest eigenvalue, or the true error."""
    for name in ("outliers", "two-sided"):
        operator = operator_of(np.r_[SPECTRA[name], np.zeros(3)], 1, dtype)
        result = eigenvalues(operator, 2, rtol=1e-2, noise=noise, **WAYS[way])
        true = torch.linalg.eigvalsh(operator.matrix.double())
        eps = torch.finfo(dtype).eps
        for pair in result.eigenvalues:
            assert pair.error_bound >= pair.residual_norm / 4
            assert pair.error_bound >= NOISE_OF_PAIRS * max(noise or 0, eps) * 0.5 * float(true.abs().max())
            assert float((true - pair.value).abs().min()) <= pair.error_bound


def test_an_eigenvalue_of_zero_has_the_error_of_the_matrix():
    values = np.r_[np.zeros(2), np.linspace(2, 3, 40)]
    pair = eigenvalues(operator_of(values), 1, which="sa", noise=1e-5, max_basis=30).eigenvalues[0]
    assert abs(pair.value) < 1e-4 and 3e-5 * 2.9 <= pair.error_bound < 1e-2 and pair.bound_kind == "noise"


class Coarse(MatrixOperator):
    """Its products are off by a relative part that does not show in their symmetry; in float64 they are right."""

    off = 1e-3

    def matvec(self, vector):
        return super().matvec(vector) * (1 + self.off)

    def precise_matvec(self, vector):
        return self.matrix.double() @ vector.double()


def test_a_closing_product_in_float64_shows_what_ordinary_ones_cannot():
    matrix = operator_of(SPECTRA["outliers"]).matrix
    for dtype in (torch.float64, torch.float32):
        result = eigenvalues(Coarse(matrix.to(dtype)), 2, rtol=1e-4)
        for pair, true in zip(result.eigenvalues, (9.0, 5.0), strict=True):
            assert abs(pair.value - true) <= pair.error_bound <= 5 * 1e-3 * 9
        assert not result.converged
    exact = Coarse(matrix)
    exact.off = 0.0
    assert eigenvalues(exact, 2, rtol=1e-4).converged


@pytest.mark.parametrize("seed", [40, 50, 66])
def test_a_pair_that_the_search_holds_by_half_is_found_by_going_on(seed):
    """The last wanted value is the first of a bulk, a tolerance and a half above the next. A fresh start does not show
    it within its products, and is held up by it."""
    true = np.r_[8, 6, 4, 3, 0.9725, 0.971, np.linspace(0.96, 0, 74)]
    operator = MatrixOperator(torch.diag(torch.as_tensor(true)))
    unchecked = eigenvalues(operator, 5, seed=seed, check="none").values
    assert abs(unchecked[4] - 0.9725) > 1e-3 * 0.9725  # else there is nothing to be found
    result = eigenvalues(operator, 5, seed=seed)
    assert result.converged and (np.abs(result.values - true[:5]) <= 1e-3 * true[:5]).all()
    assert abs(result.values[4] - 0.9725) <= result.eigenvalues[4].error_bound
