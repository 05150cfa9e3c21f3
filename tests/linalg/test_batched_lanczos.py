"""The largest eigenvalues of many operators at once, and how far a larger one may lie above."""

from functools import partial

import pytest
import torch

from curvtool.estimators.accuracy.norms import missed_top, top_within
from curvtool.linalg.batched_lanczos import largest_eigenvalues


def run(spectrum, num, seed, rtol=1e-3, **more):
    start = torch.randn(num, len(spectrum), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    settled = partial(top_within, dim=len(spectrum), rtol=rtol)
    return largest_eigenvalues(lambda u: u * spectrum.to(u.dtype), start, max_products=60, settled=settled, **more)


@pytest.mark.parametrize("distance", [0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1])
@pytest.mark.parametrize("copies", [1, 4])
def test_nearly_equal_values_lie_within_the_error(distance, copies):
    tail = torch.linspace(0, 0.4, 120, dtype=torch.float64)
    spectrum = torch.cat([torch.ones(1), torch.full((copies,), 1 - distance), tail]).double()
    found = run(spectrum, 300, seed=copies)
    error = missed_top(found.ritz, len(spectrum), 1e-16)
    missing = 1.0 - found.ritz.values
    assert (missing <= error + 1e-13).double().mean() >= 0.975
    assert (missing > -1e-13).all() and (error >= found.ritz.residuals / 4).all()
    assert (error <= 1.1e-3).all()  # what it stops at


def test_the_bound_fails_as_often_as_it_says():
    """Two equal weights are the worst case: at a chance of one in five it fails in about as many."""
    spectrum = torch.tensor([1.0, 1 - 1e-7, *[0.0] * 60], dtype=torch.float64)
    start = torch.randn(2000, 62, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = largest_eigenvalues(lambda u: u * spectrum, start, max_products=2)
    failed = (1.0 - found.ritz.values > missed_top(found.ritz, 62, 0.0, 0.2)).double().mean()
    assert 0.05 < failed < 0.22


def test_basis_is_orthonormal_and_its_trace_is_captured():
    spectrum = torch.tensor([3.0, 1.0, 0.5, *[0.0] * 20], dtype=torch.float64)
    found = largest_eigenvalues(
        lambda u: u * spectrum, torch.randn(5, 23, generator=torch.Generator().manual_seed(2)).double(), max_products=9
    )
    assert torch.allclose(found.captured, torch.full((5,), 4.5, dtype=torch.float64), rtol=1e-10)
    gram = found.basis @ found.basis.mT
    assert torch.allclose(gram, torch.diag_embed(gram.diagonal(dim1=1, dim2=2)), atol=1e-10)


def test_zero_operators_are_zero():
    found = largest_eigenvalues(lambda u: 0 * u, torch.ones(2, 4).double(), max_products=3)
    assert found.num_products == 1 and found.converged.all()
    assert torch.equal(missed_top(found.ritz, 4, 1e-16), torch.zeros(2).double())
