"""Every operator around others, with its dense matrix, and all that it can do compared with that matrix."""

from __future__ import annotations

import torch
from oracles import dense_gauss_newton, dense_hessian

from curvtool import (
    BlockOperator,
    DeflatedOperator,
    GaussNewton,
    Hessian,
    PreconditionedOperator,
    ScaledOperator,
    ShiftedOperator,
    SumOperator,
)
from curvtool.linalg.sketch import Sketch

DTYPE = torch.float64


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def wrapped(case, cluster=None, dtype=DTYPE):
    """Name, operator and dense matrix of every wrapper around a case's matrices, and of wrappers around wrappers."""
    options = {"batch_size": 3, "cluster": cluster}
    inner = Hessian(case.problem(dtype), group_size=4, **options)
    other = GaussNewton(case.problem(dtype), group_size=5, **options)
    if cluster is not None:  # as timings may have it: one rank finds terms faster, the other batches
        inner.stack.suits_whole, other.stack.suits_whole = cluster.rank == 0, True
    hessian, gauss_newton = dense_hessian(case), dense_gauss_newton(case)
    size = len(hessian)

    def part(vectors):
        return inner.space.part(vectors).to(dtype)

    eye = torch.eye(size, dtype=DTYPE)
    basis = torch.linalg.qr(torch.randn(size, 2, generator=seeded(0), dtype=DTYPE))[0].T
    left = eye - basis.T @ basis
    scale = 10 ** torch.randn(size, generator=seeded(2), dtype=DTYPE)
    scale[1] = 0.0
    index = torch.tensor([size - 1, 0, size // 2, 1])
    preconditioned, scaled = PreconditionedOperator(inner, part(scale)), scale[:, None] * hessian * scale
    both = SumOperator([inner, other], [1.0, -0.5])
    yield "scaled", ScaledOperator(inner, -3.0), -3 * hessian
    yield "shifted", ShiftedOperator(inner, 0.7), hessian + 0.7 * eye
    yield "sum", both, hessian - 0.5 * gauss_newton
    yield "deflated", DeflatedOperator(inner, part(basis)), left @ hessian @ left
    yield "preconditioned", preconditioned, scaled
    yield "block", BlockOperator(inner, index), hessian[index][:, index]
    yield "block of preconditioned", BlockOperator(preconditioned, index), scaled[index][:, index]
    yield "deflated sum", DeflatedOperator(both, part(basis)), left @ (hessian - 0.5 * gauss_newton) @ left
    yield "shifted preconditioned", ShiftedOperator(preconditioned, -0.3), scaled - 0.3 * eye
    yield (
        "sum of blocks",
        SumOperator([BlockOperator(each, index) for each in (inner, other)]),
        (hessian + gauss_newton)[index][:, index],
    )
    yield (
        "preconditioned Gauss-Newton",
        PreconditionedOperator(other, part(scale)),
        scale[:, None] * gauss_newton * scale,
    )


def deviations(found, true):
    """What is computed of it, by name, and how far that is from the dense matrix, relative to the latter."""
    space, terms = found.space, found.terms
    size, scale = len(true), float(true.norm()) + 1e-300
    vectors = torch.randn(3, size, generator=seeded(1), dtype=DTYPE)
    own = space.part(vectors)

    def off(is_, should):
        return float((is_ - should).norm()) / (scale * float(vectors.norm()))

    yield "dense", off(found.materialize(), true)
    yield "product", off(space.whole(found.matvec(own[0])), true @ vectors[0])
    yield "block", off(space.whole(found.matmat(own)), vectors @ true)
    yield "terms' product", off(space.whole(terms.whole_product(own[0])), true @ vectors[0])
    yield "diagonal", off(space.whole(found.exact_diagonal()), true.diagonal())
    whole, sums = terms.argument(own[0]), terms.space.zeros()
    forms = torch.zeros(terms.number, 1, dtype=DTYPE)
    for some in terms.ranges:
        images = terms.products(some, whole.expand(len(some), -1))
        sums += images.sum(0)
        forms[some.start : some.stop] = terms.space.segment_sums(images * whole, [terms.space.dim])
    yield "terms", off(space.whole(terms.total(sums)), true @ vectors[0])
    yield "terms' forms", off(terms.of_all(forms).sum(), vectors[0] @ true @ vectors[0])
    sketch = Sketch(space) if space.cluster.size == 1 else None
    image, shares = found.matvec_in_parts(own[0], own[1:], sketch)
    yield "product in parts", off(space.whole(image), true @ vectors[0])
    if len(shares):
        yield "parts", off(shares.sum(0)[:2], vectors[1:] @ true @ vectors[0])
        if sketch is not None:
            yield "parts' sketches", off(shares.sum(0)[2:], sketch(true @ vectors[0]))
        assert len(found.part_weights) == len(shares)
    exact = found.precise_matvec(own[0])
    if exact is not None:
        yield "precise", off(space.whole(exact), true @ vectors[0])
    assert int(torch.linalg.matrix_rank(true)) <= found.rank_bound <= size
