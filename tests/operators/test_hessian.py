"""The Hessian operator against the dense oracle over the table of cases."""

import pytest
import torch
from cases import CASES, conv_batchnorm
from oracles import dense_hessian, relative

from curvtool import CurvtoolError, GaussNewton, Hessian, Problem
from curvtool.operators.calibration import Way
from curvtool.problem.rewrites.mode import FORMS
from curvtool.problem.stacked import StackedProblem

MODES = ["kept", "fresh", "forward"]


@pytest.fixture(scope="module")
def dense():
    return {case.name: dense_hessian(case) for case in CASES}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_dense_hessian_on_ragged_batches(case, form, mode, dense):
    operator = Hessian(case.problem(), batch_size=case.batch_size, mode=mode, form=form)
    assert relative(operator.materialize(), dense[case.name]) < 1e-10


@pytest.mark.parametrize("case", CASES, ids=str)
def test_symmetric(case):
    operator = Hessian(case.problem(), batch_size=case.batch_size)
    u, v = (operator.space.normal(i) for i in range(2))
    left, right = float(u @ (operator @ v)), float(v @ (operator @ u))
    assert abs(left - right) <= 1e-10 * float(u.norm() * (operator @ v).norm())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_batches_change_nothing(case):
    whole = Hessian(case.problem(), batch_size=1000)
    ragged = Hessian(case.problem(), batch_size=case.batch_size)
    v = whole.space.normal(3)
    assert relative(ragged @ v, whole @ v) < 1e-10


@pytest.mark.parametrize("case", CASES, ids=str)
def test_float32_is_close(case, dense):
    operator = Hessian(case.problem(torch.float32), batch_size=case.batch_size)
    assert operator.materialize().dtype == torch.float32
    assert relative(operator.materialize().double(), dense[case.name]) < 1e-4


@pytest.mark.parametrize("case", CASES, ids=str)
def test_terms_add_up(case, dense):
    """The quadratic forms of the groups, with one vector for all, add up to that of the whole."""
    operator = Hessian(case.problem(), batch_size=3, group_size=4)
    z = operator.space.signs(5)[0]
    total = sum(float(z @ operator.terms.product(t, z)) for t in range(operator.terms.number))
    assert total == pytest.approx(float(z @ dense[case.name] @ z), rel=1e-9, abs=1e-12)
    assert operator.data_passes == pytest.approx(1.0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", [Hessian, GaussNewton], ids=lambda kind: kind.name)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_stacked_groups_are_the_same_matrices(case, kind, mode):
    """Groups that run in one go, each with a vector of its own, against the same groups one by one."""
    operator = kind(case.problem(), group_size=2, mode=mode)
    operator.stack.height = 2
    chunks = operator.terms.ranges
    assert len(chunks[0]) == 2 and [t for terms in chunks for t in terms] == list(range(operator.terms.number))
    vectors = operator.space.signs(3, rows=range(operator.terms.number))
    found = torch.cat([operator.terms.products(terms, vectors[terms.start : terms.stop]) for terms in chunks])
    assert operator.data_passes == pytest.approx(1.0)
    alone = torch.stack([operator.terms.product(t, v) for t, v in enumerate(vectors)])
    assert relative(found, alone) < 1e-10
    operator.stack.suits_whole = True
    assert relative(operator.terms.whole_product(vectors[0]), operator.matvec(vectors[0])) < 1e-10


def test_stacks_that_fail_or_do_not_fit_are_given_up(monkeypatch):
    """A model with a branch on its numbers cannot be mapped; without memory nothing is."""

    class Branching(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x) if x.sum() > -1e9 else x

    data = torch.randn(12, 3).double(), torch.randint(0, 2, (12,))
    branching = Hessian(Problem(Branching(3, 2).double(), data), group_size=3)
    assert branching.stack.height == 1 and len(branching.terms.ranges) == 4
    plain = Problem(torch.nn.Linear(3, 2).double(), data)
    assert Hessian(plain, group_size=3, memory_budget=0).stack.height == 1

    vectors = plain_operator(plain, 4).space.signs(1, rows=range(4))
    expected = torch.stack([plain_operator(plain, 1).terms.product(t, v) for t, v in enumerate(vectors)])
    exact = Problem.forward

    def failing(self, parameters, inputs):
        if isinstance(self, StackedProblem) and self.num_groups > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return exact(self, parameters, inputs)

    monkeypatch.setattr(Problem, "forward", failing)
    operator = plain_operator(plain, 4)
    assert relative(operator.terms.products(range(4), vectors), expected) < 1e-12
    assert operator.stack.height == 2


def plain_operator(problem, height):
    operator = Hessian(problem, group_size=3)
    operator.stack.height = height
    return operator


@pytest.mark.parametrize("case", CASES, ids=str)
def test_loss_and_gradient(case):
    model, inputs, targets = case.make(torch.float64)
    problem = case.problem()
    loss, gradient = Hessian(problem, batch_size=case.batch_size).loss_and_gradient()
    true = case.mean_loss(model.eval(), inputs, targets)
    parameters = [p for name, p in model.named_parameters() if name in problem.parameters]
    flat = torch.cat([g.reshape(-1) for g in torch.autograd.grad(true, parameters, materialize_grads=True)])
    assert loss == pytest.approx(true.item(), rel=1e-12)
    assert relative(gradient, flat) < 1e-10


@pytest.mark.parametrize(("fits", "calls"), [(1000, 1), (2, 6)])
def test_small_batches_share_a_gradient(fits, calls, monkeypatch):
    """Batches of two were asked for: ten samples still take one call, and one a batch more where memory runs out."""
    problem = CASES[0].problem()
    operator = Hessian(problem, batch_size=2)
    assert len(operator.batches) == 5
    loss, gradient = Hessian(problem, batch_size=problem.num_samples).loss_and_gradient()
    _ = operator.execution.calibration  # before calls are counted
    sizes = []
    exact = Problem.loss_sum

    def counting(self, parameters, batch):
        sizes.append(len(batch[1]))
        if len(batch[1]) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return exact(self, parameters, batch)

    monkeypatch.setattr(Problem, "loss_sum", counting)
    again, same = operator.loss_and_gradient()
    assert again == pytest.approx(loss, rel=1e-12) and relative(same, gradient) < 1e-12
    assert len(sizes) == calls and operator.piece_size == 2


@pytest.mark.parametrize("mode", [*MODES, "compiled"])
@pytest.mark.parametrize("batch_size", [None, 4])
def test_loss_that_is_not_finite_is_told_as_such(mode, batch_size):
    """Products of the calibration are not finite either, which says nothing about the mode."""
    model = torch.nn.Linear(2, 2)
    inputs = torch.full((20, 2), 1e30) * torch.tensor([1.0, -1.0])
    with torch.no_grad():
        model.weight.copy_(1e30 * torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
    problem = Problem(model, (inputs, torch.ones(20, dtype=torch.long)))
    with pytest.raises(CurvtoolError) as caught:
        Hessian(problem, batch_size=batch_size, mode=mode).loss_and_gradient()
    assert caught.value.code == "CT026"


def test_unused_parameter_has_zero_rows():
    case = next(c for c in CASES if c.name == "unused-frozen")
    operator = Hessian(case.problem(), batch_size=4)
    matrix = operator.materialize()
    names = operator.by_parameter(matrix[0])
    assert "frozen.weight" not in names
    offsets = torch.arange(operator.space.dim, dtype=torch.float64)
    rows = operator.by_parameter(offsets)["unused.weight"].reshape(-1).long()
    assert torch.equal(matrix[rows], torch.zeros_like(matrix[rows]))
    assert torch.equal(matrix[:, rows], torch.zeros_like(matrix[:, rows]))


def test_loss_linear_in_the_parameters_has_zero_hessian():
    model = torch.nn.Linear(3, 1).double()
    problem = Problem(model, (torch.randn(5, 3).double(), torch.zeros(5)), lambda z, y: z.squeeze(1))
    for mode in MODES:
        assert torch.equal(Hessian(problem, mode=mode).materialize(), torch.zeros(4, 4, dtype=torch.float64))


def test_materialize_refuses_beyond_its_budget():
    operator = Hessian(CASES[0].problem())
    with pytest.raises(CurvtoolError, match="CT006"):
        operator.materialize(max_bytes=1000)


def test_budget_decides_which_graphs_are_kept():
    problem = CASES[0].problem()
    pinned = {"batch_size": 1, "form": "torch"}  # timings choose between forms of several sizes
    per_sample = Hessian(problem, **pinned).execution.calibration.graph_bytes_per_sample
    assert per_sample > 0
    v = torch.ones(Hessian(problem).space.dim, dtype=torch.float64)
    for share in (0.0, 0.9, 4.0):
        budget = int(2 * per_sample * 10 * share)
        operator = Hessian(problem, memory_budget=budget, **pinned)
        kept = min(10, budget // 2 // operator.execution.calibration.graph_bytes_per_sample)
        assert kept == {0.0: 0, 4.0: 10}.get(share, kept) and (share != 0.9 or 0 < kept < 10)
        for way in [way for way in operator.execution.calibration.seconds if way.mode == "forward"]:
            operator.execution.calibration.seconds.pop(way)
        operator @ v
        assert len(operator.execution._graphs) == kept


def test_a_graphs_size_does_not_hold_the_data():
    """Batches are views of the whole data, whose storage a graph shares."""
    model = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3))
    sizes = []
    for num in (40, 4000):
        data = torch.randn(num, 6), torch.randint(0, 3, (num,))
        sizes.append(Hessian(Problem(model, data), form="torch").execution.calibration.graph_bytes_per_sample)
    assert sizes[0] == sizes[1]


def test_auto_mode_is_measured_on_the_model():
    calibration = Hessian(CASES[0].problem()).execution.calibrate_thoroughly()
    assert {way.mode for way in calibration.seconds} == {"kept", "fresh", "forward"}
    assert {way.form for way in calibration.seconds} >= {"torch", "rewritten"}
    assert all(seconds > 0 for seconds in calibration.seconds.values())


def test_what_arithmetic_decides_is_not_timed():
    problem = CASES[0].problem()
    assert {way.mode for way in Hessian(problem).execution.calibration.seconds} == {"kept"}  # all graphs fit
    assert {way.mode for way in Hessian(problem, memory_budget=0).execution.calibration.seconds} == set(MODES)
    dense = next(case for case in CASES if not case.problem().rewritable(range(1))["rewritten"])
    assert Hessian(dense.problem()).execution.calibration.seconds == {}  # one way alone
    gauss = GaussNewton(problem)
    assert gauss @ torch.ones(gauss.space.dim, dtype=torch.float64) is not None
    assert gauss.execution.describe() == "forward"  # no memory, the same price


def test_forward_mode_that_fails_is_left_out():
    """The Huber loss has no forward derivative of its gradient; reverse over reverse goes on without it."""
    model = torch.nn.Linear(3, 1).double()
    loss = lambda z, y: torch.nn.functional.huber_loss(z.squeeze(1), y, reduction="none")
    problem = Problem(model, (torch.randn(5, 3).double(), torch.zeros(5).double()), loss)
    operator = Hessian(problem)
    calibration = operator.execution.calibrate_thoroughly()
    if Way("forward", "torch") in calibration.seconds:
        pytest.skip("this torch has the derivative")
    assert Way("forward", "torch") in calibration.rejected
    assert torch.isfinite(operator.materialize()).all()


def test_what_was_asked_for_and_is_not_there_is_refused():
    loss = lambda z, y: torch.nn.functional.huber_loss(z.squeeze(1), y, reduction="none")
    problem = Problem(torch.nn.Linear(3, 1).double(), (torch.randn(5, 3).double(), torch.zeros(5).double()), loss)
    if not Hessian(problem).execution.calibrate_thoroughly().rejected:
        pytest.skip("this torch has the derivative")
    with pytest.raises(CurvtoolError, match="CT055") as caught:
        Hessian(problem, mode="forward") @ torch.ones(4, dtype=torch.float64)
    assert caught.value.exit_status == 5 and "--hvp auto" in str(caught.value)


def test_batches_of_small_models_are_large_and_as_many_as_parts():
    model = torch.nn.Linear(6, 3)
    sizes = []
    for num in (100, 4096, 64000):
        data = torch.randn(num, 6), torch.randint(0, 3, (num,))
        operator = Hessian(Problem(model, data))
        sizes.append((operator.batch_size, len(operator.batches)))
    assert sizes == [(13, 8), (512, 8), (2048, 32)]


def test_plain_products_need_no_calibration():
    operator = Hessian(CASES[0].problem(), batch_size=3, mode="fresh", form="torch")
    operator @ torch.ones(operator.space.dim, dtype=torch.float64)
    assert operator.execution.form == "torch" and operator.execution.timings == {}
    assert "calibration" not in operator.execution.__dict__


def test_users_model_is_left_alone():
    model, x, y = conv_batchnorm(torch.float64)
    model.train()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    problem = Problem(model, (x, y))
    operator = Hessian(problem, batch_size=4)
    operator @ torch.ones(operator.space.dim, dtype=torch.float64)
    assert all(module.training for module in model.modules())
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_no_second_derivative_is_told():
    class Bags(torch.nn.EmbeddingBag):
        def forward(self, x):
            return super().forward(x.flatten(), torch.arange(0, x.numel(), x.shape[1]))

    model = torch.nn.Sequential(Bags(5, 3), torch.nn.Linear(3, 2))
    problem = Problem(model, (torch.randint(0, 5, (4, 3)), torch.tensor([0, 1, 0, 1])))
    operator = Hessian(problem, batch_size=2, mode="fresh")
    with pytest.raises(CurvtoolError) as caught:
        operator @ torch.ones(operator.space.dim)
    assert caught.value.code == "CT050" and caught.value.exit_status == 5


@pytest.mark.parametrize("fits", [1, 3])
def test_pieces_are_halved_where_memory_runs_out(fits, dense, monkeypatch):
    case = CASES[0]
    problem = case.problem()
    operator = Hessian(problem)
    batches = list(operator.batches)
    assert operator.batch_size > 3
    exact = Problem.loss_sum
    kept_before = operator @ torch.ones(operator.space.dim, dtype=torch.float64)
    loss, gradient = operator.loss_and_gradient()
    operator.execution.release()
    fresh = Hessian(problem, form="torch", mode="fresh")  # sized while memory suffices

    def failing(self, parameters, batch):
        if len(batch[1]) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return exact(self, parameters, batch)

    monkeypatch.setattr(Problem, "loss_sum", failing)
    found = operator @ torch.ones(operator.space.dim, dtype=torch.float64)
    assert relative(found, kept_before) < 1e-12
    assert operator.piece_size <= fits and operator.batches == batches
    again, same = fresh.loss_and_gradient()  # what a run begins with
    assert again == pytest.approx(loss, rel=1e-12) and relative(same, gradient) < 1e-12
    assert fresh.piece_size <= fits
    assert relative(operator.materialize(), dense[case.name]) < 1e-10
    pinned = Hessian(problem, batch_size=8, form="torch", mode="fresh")
    with pytest.raises(CurvtoolError, match="CT040"):
        pinned @ torch.ones(pinned.space.dim, dtype=torch.float64)
