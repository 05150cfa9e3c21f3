"""Batch statistics (`batch_norm="batch"`): the matrices of the loss as training sees it, against dense float64."""

import copy

import pytest
import torch
from oracles import relative
from torch import nn
from torch.nn import functional as F

from curvtool import CurvtoolError, Fisher, GaussNewton, Hessian, Problem, eigenvalues
from curvtool.operators.fisher import EmpiricalFisher
from curvtool.operators.jacobian import InputJacobian
from curvtool.operators.parameter_jacobian import ParameterJacobian
from curvtool.operators.preflight import preflight_curvature
from curvtool.problem.checkpoints.scripted import ScriptedModule
from curvtool.problem.validation import check_problem

NUM, SIZE = 22, 5  # the last batch has two samples


class Net(nn.Module):
    """BatchNorm of images and of vectors, one without weights, and dropout, which stays off."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)
        self.mix, self.bare = nn.Linear(8, 4), nn.BatchNorm1d(4, affine=False)
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(4, 3)
        for norm in (self.norm, self.bare):
            norm.running_mean.uniform_(-1, 1)
            norm.running_var.uniform_(0.5, 2)

    def forward(self, x):
        x = torch.tanh(self.norm(self.conv(x))).flatten(1)
        return self.head(self.drop(F.gelu(self.bare(self.mix(x)))))


def data(num=NUM, dtype=torch.float64):
    g = torch.Generator().manual_seed(1)
    return torch.randn(num, 1, 4, 4, generator=g).to(dtype), torch.randint(0, 3, (num,), generator=g)


def problem(num=NUM, size=SIZE, model=None, loss="cross-entropy", **options):
    model = Net().double() if model is None else model
    return Problem(model, data(num), loss, batch_norm="batch", batch_size=size, **options)


def outputs(num=NUM, size=SIZE, model=None):
    """Of the model in training mode but for dropout, batch by batch, and its parameters."""
    model = copy.deepcopy(Net().double() if model is None else model).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    return torch.cat([model(x) for x in data(num)[0].split(size)]), list(model.parameters())


def rows_of(flat, parameters):
    rows = [torch.autograd.grad(each, parameters, retain_graph=True, materialize_grads=True) for each in flat]
    return torch.stack([torch.cat([part.reshape(-1) for part in row]) for row in rows]).detach()


def dense_hessian(num=NUM, size=SIZE, model=None):
    """Of the mean over the batches of each batch's mean loss, by its samples: torch's own operations in reverse."""
    z, parameters = outputs(num, size, model)
    gradient = torch.autograd.grad(F.cross_entropy(z, data(num)[1]), parameters, create_graph=True)
    return rows_of(torch.cat([g.reshape(-1) for g in gradient]), parameters)


def dense_gauss_newton():
    z, parameters = outputs()
    jacobian = rows_of(z.reshape(-1), parameters).view(NUM, 3, -1)
    p = z.detach().softmax(1)
    middle = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    return torch.einsum("ncp,ncd,ndq->pq", jacobian, middle, jacobian) / NUM


@pytest.fixture(scope="module")
def hessian():
    return dense_hessian()


@pytest.mark.parametrize("mode", ["kept", "fresh", "forward"])
@pytest.mark.parametrize("form", ["torch", "rewritten", "channels-last"])
def test_hessian(hessian, mode, form):
    assert relative(Hessian(problem(), mode=mode, form=form).materialize(), hessian) < 1e-10


def test_hessian_by_any_way_and_by_terms(hessian):
    operator = Hessian(problem())
    assert operator.batches == [range(5), range(5, 10), range(10, 15), range(15, 20), range(20, 22)]
    assert operator.groups == operator.batches  # eight samples hold one whole batch
    v = torch.randn(operator.space.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    parts = sum(operator.terms.product(term, v) for term in range(operator.terms.number))
    in_one_go = torch.cat([operator.terms.products(t, v.expand(len(t), -1)) for t in operator.terms.ranges]).sum(0)
    for found in (operator @ v, parts, in_one_go, operator.terms.whole_product(v), operator.matmat(v[None])[0]):
        assert relative(found, hessian @ v) < 1e-10
    loss, gradient = operator.loss_and_gradient()
    z, parameters = outputs()
    true = F.cross_entropy(z, data()[1])
    assert loss == pytest.approx(float(true.detach()), rel=1e-12)
    wanted = torch.cat([g.reshape(-1) for g in torch.autograd.grad(true, parameters)])
    assert relative(gradient, wanted) < 1e-12


def test_groups_of_several_batches_keep_the_batches(hessian):
    operator = Hessian(problem(), group_size=2 * SIZE)
    v = torch.randn(operator.space.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    found = torch.cat([operator.terms.products(t, v.expand(len(t), -1)) for t in operator.terms.ranges])
    assert len(found) == 3 and relative(found.sum(0), hessian @ v) < 1e-10
    with pytest.raises(CurvtoolError) as caught:
        Hessian(problem(), group_size=7)
    assert caught.value.code == "CT003" and "--probe-group 10" in str(caught.value.remedy)


def test_stacks_of_batches(hessian):
    operator = Hessian(problem())
    vectors = torch.randn(4, operator.space.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    operator.stack.height = 4  # whatever is faster here
    found = operator.terms.products(range(4), vectors)
    one_by_one = torch.stack([operator.terms.product(t, v) for t, v in enumerate(vectors)])
    assert relative(found, one_by_one) < 1e-10


@pytest.mark.parametrize("mode", ["auto", "kept", "fresh", "forward"])
@pytest.mark.parametrize("kind", [GaussNewton, Fisher])
def test_gauss_newton_and_fisher(kind, mode):
    operator = kind(problem(), mode=mode)
    assert relative(operator.materialize(), dense_gauss_newton()) < 1e-10
    assert relative(operator.exact_diagonal(), dense_gauss_newton().diagonal()) < 1e-10  # products, no samples' rows


def test_differences_of_gradients(hessian):
    assert relative(Hessian(problem(), mode="finite-difference").materialize(), hessian) < 1e-6


@pytest.mark.slow
def test_compiled(hessian):
    operator = Hessian(problem(num=20), mode="compiled")
    try:
        found = operator.materialize()
    except CurvtoolError as error:  # no compiler here
        assert error.code == "CT055"
        pytest.skip(str(error))
    assert relative(found, dense_hessian(20)) < 1e-10


@pytest.mark.parametrize(("num", "size"), [(10, 5), (7, 100), (3, 2), (4, 4)])
def test_other_cuts(num, size):
    if (num, size) == (3, 2):  # one vector alone has no statistics
        for use in (check_problem, lambda p: Hessian(p).loss_and_gradient()):
            with pytest.raises(CurvtoolError) as caught:
                use(problem(num, size))
            assert caught.value.code == "CT024" and "--batch-size" in caught.value.remedy
        return
    check_problem(problem(num, size))
    assert relative(Hessian(problem(num, size)).materialize(), dense_hessian(num, size)) < 1e-10


def test_one_image_has_statistics_of_its_own():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3)).double()
    check_problem(problem(5, 2, model))
    assert relative(Hessian(problem(5, 2, model)).materialize(), dense_hessian(5, 2, model)) < 1e-10


def test_the_model_is_left_as_it_was():
    model = Net().double()
    model.norm.eval()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    made = problem(model=model)
    constants = {name: t.clone() for name, t in made._constants.items()}
    check_problem(made)
    Hessian(made, mode="kept").materialize()
    preflight_curvature(made)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert all(torch.equal(t, constants[name]) for name, t in made._constants.items())


def test_preflight_keeps_the_batches():
    for size in (5, 20, 32):
        made = problem(64, size)
        found = preflight_curvature(made)
        assert found.symmetry < 1e-12 and found.finite_difference < 1e-6
        part = made.restricted(range(0, 64, 9), torch.float64)
        num = part.num_samples
        assert num % size == 0 or part.num_samples == 64
        assert part.restricted(range(8), torch.float64).num_samples == num or size < 8


def test_parts_that_are_no_batches_are_refused():
    made = problem()
    for rows in (range(4), range(1, 6), range(10), range(22), range(18, 22)):
        with pytest.raises(RuntimeError, match="no batch"):
            made.batch(rows)


@pytest.mark.parametrize("use", [EmpiricalFisher, InputJacobian, ParameterJacobian])
def test_what_is_of_single_samples_is_refused(use):
    with pytest.raises(CurvtoolError) as caught:
        use(problem())
    assert caught.value.code == "CT003" and caught.value.exit_status == 2 and caught.value.remedy


def test_refusals():
    plain = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).double()
    own, by_batch = Net().double(), {"batch_norm": "batch", "batch_size": SIZE}
    cases = [
        (own, "cross-entropy", {"batch_norm": "train"}, "CT001"),
        (own, "cross-entropy", {"batch_norm": "batch"}, "CT003"),
        (plain, "cross-entropy", by_batch, "CT003"),
        (ScriptedModule(torch.jit.script(own)), "cross-entropy", by_batch, "CT003"),
        (own, "model", by_batch, "CT003"),
    ]
    for model, loss, options, code in cases:
        with pytest.raises(CurvtoolError) as caught:
            Problem(model, data(), loss, **options)
        assert caught.value.code == code and caught.value.remedy


def test_a_loader_has_a_batch_size():
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data()), batch_size=SIZE)
    assert Problem(Net().double(), loader, batch_norm="batch").statistics_batch == SIZE
    assert Problem(Net().double(), loader).statistics_batch is None


def test_a_batch_is_never_cut_where_memory_runs_out(monkeypatch):
    operator = Hessian(problem(), mode="fresh")

    def full(rows, vector, **_):
        raise operator.problem.out_of_memory(len(rows))

    monkeypatch.setattr(operator.execution, "product", full)
    with pytest.raises(CurvtoolError) as caught:
        operator @ torch.ones(operator.space.dim, dtype=torch.float64)
    assert caught.value.code == "CT040" and "another quantity" in caught.value.remedy


def test_a_callable_loss():
    made = problem(loss=F.cross_entropy)
    check_problem(made)
    assert relative(Hessian(made).materialize(), dense_hessian()) < 1e-10
    with pytest.raises(CurvtoolError) as caught:
        check_problem(problem(loss=lambda z, y: F.cross_entropy(z, y, reduction="sum")))
    assert caught.value.code == "CT028"


class Other(nn.Module):
    """A normalisation of one's own, which writes to its running mean."""

    def __init__(self):
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(4))

    def forward(self, x):
        if not self.training:
            return x - self.running_mean
        mean = x.mean(0)
        self.running_mean.mul_(0.9).add_(0.1 * mean.detach())
        return x - mean


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm1d(4, track_running_stats=False),
        nn.BatchNorm1d(4, momentum=None),
        nn.SyncBatchNorm(4),
        nn.InstanceNorm1d(4, affine=True, track_running_stats=True),
        Other(),
    ],
    ids=["untracked", "cumulative", "sync", "instance", "own"],
)
def test_other_normalisations(norm):
    torch.manual_seed(0)
    instance = isinstance(norm, nn.InstanceNorm1d)
    first = nn.Linear(4, 4) if instance else nn.Linear(16, 4)
    shape = nn.Flatten(1, 2) if instance else nn.Flatten()  # (N, 4, 4) or (N, 16)
    head = [nn.Flatten(), nn.Linear(16, 3)] if instance else [nn.Linear(4, 3)]
    model = nn.Sequential(shape, first, norm, nn.Tanh(), *head).double()
    plain = copy.deepcopy(model)
    if isinstance(norm, nn.SyncBatchNorm):  # torch's own refuses a CPU in training
        plain[2] = nn.BatchNorm1d(4).double()
    for mode in ("kept", "forward"):
        found = Hessian(problem(model=model), mode=mode).materialize()
        assert relative(found, dense_hessian(model=plain)) < 1e-10


def test_float32_and_bfloat16(hessian):
    inputs, targets = data(dtype=torch.float32)
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 0.5)):
        made = Problem(Net(), (inputs, targets), batch_norm="batch", batch_size=SIZE, dtype=dtype)
        assert relative(Hessian(made).materialize().double(), hessian) < tolerance


def test_eigenvalues(hessian):
    true = torch.linalg.eigvalsh(hessian)
    found = eigenvalues(Hessian(problem()), 2, rtol=1e-8)
    assert found.eigenvalues[0].value == pytest.approx(float(true[-1]), rel=1e-8)


def test_evaluation_mode_is_another_matrix_and_its_batches_are_free(hessian):
    made = Problem(Net().double(), data())
    assert made.batch_norm == "eval" and problem().batch_norm == "batch"
    assert Problem(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).double(), data()).batch_norm is None
    one = Hessian(made, batch_size=3).materialize()
    assert relative(one, Hessian(made, batch_size=22).materialize()) < 1e-10
    assert relative(one, hessian) > 0.1
