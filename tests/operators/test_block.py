"""Several vectors with the same samples: on one graph, and in one backward pass."""

import pytest
import torch
from cases import CASES
from oracles import dense_hessian, relative

from curvtool import GaussNewton, Hessian, Problem
from curvtool.operators import block
from curvtool.operators.products import GradientGraph
from curvtool.problem.rewrites.mode import FORMS


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_one_pass_for_several_equals_the_dense_hessian(case, form):
    operator = Hessian(case.problem(), batch_size=case.batch_size, form=form, mode="kept")
    operator.block._mapped = operator.block.width = 3
    vectors = torch.randn(7, operator.space.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert relative(operator.matmat(vectors), vectors @ dense_hessian(case)) < 1e-10
    assert operator.num_products == pytest.approx(7)


@pytest.mark.parametrize("kind", [Hessian, GaussNewton])
@pytest.mark.parametrize("mode", ["kept", "fresh", "forward", "auto"])
def test_blocks_are_what_single_products_are(kind, mode):
    case = CASES[0]
    operator, single = (kind(case.problem(), batch_size=case.batch_size, mode=mode) for _ in range(2))
    vectors = torch.randn(9, operator.space.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = torch.stack([single @ vector for vector in vectors])
    for width in (1, 4):
        operator.block.width = width
        assert relative(operator.matmat(vectors), expected) < 1e-12


def test_a_graph_is_made_once_for_several(monkeypatch):
    problem = CASES[0].problem()
    operator = Hessian(problem, batch_size=3, mode="fresh", form="torch")
    monkeypatch.setattr(block, "_LONG", 0.0)  # no mapping
    built, exact = [], Problem.loss_sum
    assert operator.block_width > 1

    def counting(self, parameters, batch):
        built.append(len(batch[1]))
        return exact(self, parameters, batch)

    monkeypatch.setattr(Problem, "loss_sum", counting)
    operator.matmat(operator.space.signs(1, rows=range(operator.block_width)))
    assert built == [len(rows) for rows in operator.batches]


@pytest.mark.parametrize(("factor", "delay", "width"), [(1.0, 0.0, 64), (1.01, 0.0, 1), (1.0, 1.0, 1)])
def test_blocks_are_taken_where_they_are_right_and_faster(factor, delay, width, monkeypatch):
    """A pass that takes no time, one that is wrong, and one that takes long."""
    clock = [0.0]

    def measured(run, device):
        before = clock[0]
        run()
        return clock[0] - before

    single, several = GradientGraph.product, GradientGraph.products

    def alone(self, vector, *, keep=True):
        clock[0] += 0.01
        return single(self, vector, keep=keep)

    def together(self, vectors):
        clock[0] += delay
        return [None if part is None else factor * part for part in several(self, vectors)]

    monkeypatch.setattr(block, "measured_seconds", measured)
    monkeypatch.setattr(GradientGraph, "product", alone)
    monkeypatch.setattr(GradientGraph, "products", together)
    assert Hessian(CASES[0].problem(), batch_size=3, mode="kept", form="torch").block_width == width


def test_memory_that_runs_out_ends_blocks(monkeypatch):
    case = CASES[0]
    operator = Hessian(case.problem(), batch_size=3, mode="auto", form="torch")
    operator.block._mapped = operator.block.width = 4

    def failing(self, vectors):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(GradientGraph, "products", failing)
    vectors = torch.randn(5, operator.space.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert relative(operator.matmat(vectors), vectors @ dense_hessian(case)) < 1e-10
    assert operator.block_width == 1 and operator.num_products == pytest.approx(5)
