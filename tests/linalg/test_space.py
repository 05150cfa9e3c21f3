"""The vector space: sums that are right however long the vectors are."""

import pytest
import torch

from curvtool.linalg.space import VectorSpace


@pytest.mark.parametrize("dim", [1000, 2**16 + 1, 12_000_001])
def test_inner_products_of_long_float32_vectors(dim):
    """Summed up in float32 alone, they are off by 1e-3 and more."""
    space = VectorSpace(dim, torch.float32, torch.device("cpu"))
    rows = space.normals(0, rows=range(3)) + 0.1
    exact = rows.double() @ rows.double().T
    lengths = exact.diagonal().sqrt()
    scale = torch.outer(lengths, lengths)
    assert float(((space.gram(rows, rows) - exact) / scale).abs().max()) < 1e-6
    assert float(((space.coefficients(rows, rows[1]) - exact[1]) / scale[1]).abs().max()) < 1e-6
    assert float(abs(space.norm(rows[0]) / lengths[0] - 1)) < 1e-6
    assert float(abs(space.inner(rows[0], rows[2]) - exact[0, 2]) / scale[0, 2]) < 1e-6


def test_orthonormal_rows():
    space = VectorSpace(200_000, torch.float32, torch.device("cpu"))
    base = space.normal(1)
    rows = torch.stack([base, base + 1e-3 * space.normal(2), space.normal(3)])
    found = space.orthonormal(rows)
    assert torch.allclose(space.gram(found, found), torch.eye(3), atol=1e-5)
    left = rows - space.gram(rows, found) @ found
    assert float(left.norm()) < 1e-4 * float(rows.norm())
