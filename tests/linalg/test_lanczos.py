"""Lanczos against dense eigenvalues, its own relations, and the ways it can go wrong."""

import numpy as np
import pytest
import torch

from curvtool import MatrixOperator, eigenvalues
from curvtool.estimators.steering import keep_for
from curvtool.linalg.lanczos import Lanczos


def symmetric(eigenvalues_, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    n = len(eigenvalues_)
    q, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    return (q @ torch.diag(torch.tensor(eigenvalues_, dtype=torch.float64)) @ q.T).to(dtype)


def run(operator, steps, max_basis=50, seed=0, k=3, which="la", block_size=1):
    lanczos = Lanczos(operator.matvec_in_parts, operator.space, max_basis, (seed,), block_size=block_size)
    pairs = None
    for _ in range(steps):
        pairs = lanczos.step(keep_for(k, which))
    return lanczos, pairs


@pytest.mark.parametrize("block_size", [1, 3])
@pytest.mark.parametrize("max_basis", [50, 12])
def test_recurrence_holds_to_rounding(max_basis, block_size):
    """A Q^T = Q^T T + N^T C, and the basis is orthonormal; with restarts and without."""
    matrix = symmetric(np.linspace(-1, 1, 80) ** 3 * 1e3)
    lanczos, _ = run(MatrixOperator(matrix), 40, max_basis, block_size=block_size)
    j = lanczos.size
    whole = lanczos.basis[: j + block_size]
    assert lanczos.waiting == block_size
    projected = torch.from_numpy(lanczos.projected[: j + block_size, :j])
    assert torch.allclose(projected[:j], projected[:j].T, atol=1e-9)
    assert float((matrix @ whole[:j].T - whole.T @ projected).abs().max()) < 1e-12 * 1e3
    assert float((whole @ whole.T - torch.eye(len(whole), dtype=torch.float64)).abs().max()) < 1e-12


@pytest.mark.parametrize("block_size", [1, 2])
@pytest.mark.parametrize("max_basis", [50, 14])
def test_estimated_residuals_are_the_true_ones(max_basis, block_size):
    matrix = symmetric(np.linspace(-2, 5, 60) ** 3)
    lanczos, pairs = run(MatrixOperator(matrix), 25, max_basis, block_size=block_size)
    index = pairs.wanted(4, "be")
    vectors = lanczos.vectors(pairs, index)
    true = torch.linalg.vector_norm(vectors @ matrix - torch.from_numpy(pairs.values[index])[:, None] * vectors, dim=1)
    assert np.allclose(true.numpy(), pairs.residuals[index], atol=1e-11 * abs(matrix).max().item())


@pytest.mark.parametrize("which", ["la", "sa", "lm", "be"])
@pytest.mark.parametrize("max_basis", [None, 12])
def test_equals_eigh(which, max_basis):
    values = np.concatenate([np.linspace(-1, 1, 90), [4.0, 3.0, 2.0, -2.5, -3.5, -5.0]])
    operator = MatrixOperator(symmetric(values))
    result = eigenvalues(operator, 3, which=which, rtol=1e-10, max_basis=max_basis, max_passes=2000)
    true = {
        "la": [4, 3, 2],
        "sa": [-5, -3.5, -2.5],
        "lm": [-5, 4, -3.5],
        "be": [4, 3, 2, -2.5, -3.5, -5],
    }[which]
    assert result.converged
    assert np.allclose(result.values, true, rtol=1e-8)
    v = result.vectors
    assert torch.allclose(v @ v.T, torch.eye(len(v), dtype=v.dtype), atol=1e-10)


def test_float32_to_its_precision():
    values = np.concatenate([np.linspace(0, 1, 200), [30.0, 20.0, 10.0]])
    result = eigenvalues(MatrixOperator(symmetric(values, dtype=torch.float32)), 3)
    assert np.allclose(result.values, [30, 20, 10], rtol=1e-4)


def test_never_the_same_pair_twice():
    """Many more steps than needed: a basis that loses orthogonality would find the leading value again and again."""
    values = np.concatenate([np.linspace(0, 1, 120), [1e6, 1e3, 100.0]])
    for dtype in (torch.float64, torch.float32):
        operator = MatrixOperator(symmetric(values, dtype=dtype))
        _, pairs = run(operator, 90, max_basis=100)
        assert (pairs.values > 2).sum() == 3


def test_repeated_eigenvalue_of_an_exhausted_space_is_found_again():
    operator = MatrixOperator(symmetric([5.0, 5.0, 5.0, 2.0, 1.0]))
    result = eigenvalues(operator, 4)
    assert np.allclose(result.values, [5, 5, 5, 2], rtol=1e-8)


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e20])
def test_scale_of_the_matrix_does_not_matter(scale):
    values = np.concatenate([np.linspace(0, 1, 100), [9.0, 5.0, 3.0]])
    result = eigenvalues(MatrixOperator(symmetric(values) * scale), 3)
    assert np.allclose(np.array(result.values) / scale, [9, 5, 3], rtol=1e-3)
    assert result.converged


def test_zero_matrix():
    result = eigenvalues(MatrixOperator(torch.zeros(20, 20, dtype=torch.float64)), 3)
    assert result.values == [0.0, 0.0, 0.0] and result.converged


def test_smallest_of_a_matrix_of_low_rank_is_zero():
    values = np.concatenate([np.zeros(60), [3.0, 2.0, 1.0]])
    result = eigenvalues(MatrixOperator(symmetric(values)), 2, which="sa")
    assert np.allclose(result.values, 0, atol=1e-9) and result.converged


def test_whole_spectrum_of_a_small_matrix():
    matrix = symmetric([3.0, -1.0, 2.0])
    assert np.allclose(eigenvalues(MatrixOperator(matrix), 3).values, [3, 2, -1], rtol=1e-9)
    one = MatrixOperator(torch.tensor([[-7.0]], dtype=torch.float64))
    assert eigenvalues(one, 1).values == [-7.0]


@pytest.mark.parametrize("scale", [1.0, 1e-12])
def test_nothing_but_rounding_in_the_complement(scale):
    """Beside the deflated vectors the matrix is zero: rounding must not pass for a direction."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(12, 12, generator=generator, dtype=torch.float64))[0]
    values = torch.tensor([3.0, -2.0, 1.0] + [0.0] * 9, dtype=torch.float64) * scale
    made = MatrixOperator(basis @ torch.diag(values) @ basis.T)
    for seed in range(20):
        lanczos = Lanczos(made.matvec_in_parts, made.space, 9, (seed,), deflated=basis[:, :3].T.contiguous())
        while not lanczos.exhausted:
            pairs = lanczos.step(keep_for(2, "be"))
        assert np.abs(pairs.values).max() <= 1e-13 * scale
        q = lanczos.basis[:9]
        assert torch.allclose(q @ q.T, torch.eye(9, dtype=torch.float64), atol=1e-12)
        assert float((q @ basis[:, :3]).abs().max()) <= 1e-12
