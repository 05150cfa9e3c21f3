"""Each way in which a model refuses a second derivative, provoked: switched with a notice, or refused with a remedy."""

import importlib.util
import sys

import pytest
import torch
from oracles import relative
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from curvtool import CurvtoolError, GaussNewton, Hessian, Problem, eigenvalues
from curvtool.operators.calibration import Way
from curvtool.operators.preflight import preflight_curvature
from curvtool.problem.validation import check_problem

G = torch.Generator().manual_seed(0)
X = torch.randn(12, 4, 6, generator=G, dtype=torch.float64)
Y = torch.randint(0, 3, (12,), generator=G)
TOKENS = torch.randint(0, 9, (12, 5), generator=G)


class Around(nn.Module):
    """An operation between two layers."""

    def __init__(self, operation, inner=None):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(6, 6)
        self.inner = nn.Sequential(inner if inner is not None else nn.Identity())
        self.last = nn.Linear(6, 3)
        self.operation = operation

    def forward(self, x):
        return self.last(self.inner(self.operation(self.first(x))).mean(1))


def problem_of(model, data=(X, Y), loss="cross-entropy"):
    return Problem(model.double(), data, loss)


def dense(model, inputs=X, targets=Y):
    """By rows of double backward, all data at once, the math backend for attention."""
    parameters = list(model.parameters())
    with nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
        loss = F.cross_entropy(model.eval()(inputs), targets)
    gradient = torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True)
    rows = []
    for entry in torch.cat([g.reshape(-1) for g in gradient]):
        row = torch.autograd.grad(entry, parameters, retain_graph=True, materialize_grads=True)
        rows.append(torch.cat([part.reshape(-1) for part in row]))
    return torch.stack(rows)


def refusal(model, *words, data=(X, Y), loss="cross-entropy"):
    """The preflight refuses the model, with these words in what it says."""
    with pytest.raises(CurvtoolError) as caught:
        preflight_curvature(problem_of(model, data, loss))
    assert caught.value.exit_status == 5 and caught.value.remedy
    for word in words:
        assert word in str(caught.value), (word, str(caught.value))
    return caught.value


# switched, with a notice


def test_fused_attention_is_switched_to_plain_operations():
    model = Around(lambda x: F.scaled_dot_product_attention(x, x, x))
    problem = problem_of(model)
    assert "attention by the math backend" in problem.repairs
    preflight_curvature(problem)
    assert relative(Hessian(problem).materialize(), dense(model)) < 1e-8


def test_a_compiled_model_is_unwrapped():
    model = Around(torch.tanh)
    wanted = dense(model.double())
    problem = Problem(torch.compile(model), (X, Y))
    assert "the wrapper was taken off" in problem.repairs
    assert relative(Hessian(problem).materialize(), wanted) < 1e-8


def test_compiled_modules_inside_run_uncompiled():
    model = Around(torch.tanh, nn.Linear(6, 6)).double()
    wanted = dense(model)
    model.inner = torch.compile(model.inner)
    problem = problem_of(model)
    assert "compiled modules run uncompiled" in problem.repairs
    assert relative(Hessian(problem).materialize(), wanted) < 1e-8


def test_training_mode_becomes_evaluation_mode():
    model = Around(torch.tanh, nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5))).double()
    wanted = dense(model)
    model.train()
    problem = problem_of(model)
    assert any("evaluation mode" in repair for repair in problem.repairs)
    assert relative(Hessian(problem).materialize(), wanted) < 1e-8
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers(layer):
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.layer = layer(6, 5, batch_first=True)
            self.head = nn.Linear(5, 3)

        def forward(self, x):
            return self.head(self.layer(x)[0][:, -1])

    model = Recurrent().double()
    problem = problem_of(model)
    assert "cuDNN off for the recurrent layers" in problem.repairs
    preflight_curvature(problem)
    assert relative(Hessian(problem).materialize(), dense(model)) < 1e-8
    found = Hessian(problem).execution.calibrate_thoroughly()  # forward mode is taken only where it is right
    assert all(way.mode != "forward" or way in found.seconds or way in found.rejected for way in found.rejected)


def test_data_parallel_wrappers_are_taken_off(monkeypatch):
    module = sys.modules["torch.nn.parallel.data_parallel"]
    monkeypatch.setattr(module, "_get_available_device_type", lambda: None)  # not the stand-in
    model = Around(torch.tanh)
    problem = Problem(nn.DataParallel(model.double()), (X, Y))
    assert relative(Hessian(problem).materialize(), dense(model)) < 1e-8


def test_checkpointing_without_re_entering(monkeypatch):
    for name in ("standin",):  # whose device checkpointing asks for its types
        monkeypatch.setattr(getattr(torch, name), "get_amp_supported_dtype", lambda: [torch.float32], raising=False)
    model = Around(lambda x: checkpoint(lambda t: torch.tanh(t) ** 2, x, use_reentrant=False)).double()
    preflight_curvature(problem_of(model))
    assert relative(Hessian(problem_of(model)).materialize(), dense(model)) < 1e-8


class OnlyReverse(torch.autograd.Function):
    """The square, which can be differentiated twice in reverse mode, and has no forward rule."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 2 * x * g


@pytest.mark.parametrize(
    "operation",
    [
        OnlyReverse.apply,
        lambda x: F.huber_loss(x, torch.zeros_like(x), reduction="none"),
        lambda x: F.grid_sample(x[:, None], x[:, :2, :4].tanh().reshape(len(x), 2, 2, 2), align_corners=False)
        .flatten(1).repeat(1, 6).view(len(x), 4, 6),
    ],
    ids=["custom-function", "huber", "grid-sample"],
)  # fmt: skip
def test_without_a_forward_rule_reverse_mode_is_taken(operation):
    model = Around(operation).double()
    problem = problem_of(model)
    preflight_curvature(problem)
    wanted = dense(model)
    found = Hessian(problem)
    assert relative(found.materialize(), wanted) < 1e-8
    assert Way("forward", "torch") in found.execution.calibrate_thoroughly().rejected
    assert relative(GaussNewton(problem).materialize(), GaussNewton(problem, mode="kept").materialize()) < 1e-8
    with pytest.raises(CurvtoolError) as caught:
        Hessian(problem, mode="forward") @ torch.ones(found.space.dim, dtype=torch.float64)
    assert caught.value.exit_status == 5


# refused, with the module and a way out


def test_checkpointing_by_re_entering():
    model = Around(lambda x: checkpoint(torch.tanh, x, use_reentrant=True))
    refusal(model, "CT059", "use_reentrant=False")


class InPlace(nn.Module):
    def forward(self, x):
        y = x.exp()
        z = y * y
        y += 1
        return z


def test_in_place_on_what_is_saved_names_the_module():
    refusal(Around(torch.tanh, InPlace()), "CT054", "inner.0 (InPlace)", "out of place")


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * g


class Module(nn.Module):
    def __init__(self, operation):
        super().__init__()
        self.operation = operation

    def forward(self, x):
        return self.operation(x)


def test_a_function_that_is_differentiable_once():
    """Torch's own mark raises no error where the path behind it is not asked for: the differences of gradients tell."""
    refusal(Around(torch.tanh, Module(Once.apply)), "CT053", "inner.0 (Module)")


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: torch.cdist(x, x).mean(-1, keepdim=True).expand_as(x),
        lambda x: torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(x[:, None], x[:, None], x[:, None])[0][
            :, 0
        ],
    ],
    ids=["cdist", "flash-attention-by-name"],
)
def test_operations_without_a_double_backward(operation):
    error = refusal(Around(torch.tanh, Module(operation)), "inner.0 (Module)")
    assert error.code in {"CT050", "CT058"}


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.bag = nn.EmbeddingBag(9, 6, mode="mean")
        self.last = nn.Linear(6, 3)

    def forward(self, x):
        bags = torch.arange(0, x.numel(), x.shape[1])  # by offsets, as torch alone has them
        return self.last(torch.tanh(self.bag(x.flatten(), bags)))


class Mean(Bag):
    """The same in operations that can be differentiated twice."""

    def forward(self, x):
        return self.last(torch.tanh(F.embedding(x, self.bag.weight).mean(1)))


def test_embedding_bag():
    refusal(Bag(), "CT050", "bag (EmbeddingBag)", "finite-difference", data=(TOKENS, Y))


def test_ctc_loss():
    def loss(output, target):
        log_p = output.log_softmax(-1).transpose(0, 1)
        lengths = torch.full((len(output),), 4)
        return F.ctc_loss(log_p, target[:, None] % 2 + 1, lengths, lengths * 0 + 1, reduction="none")

    class Steps(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 3)

        def forward(self, x):
            return self.layer(x)

    refusal(Steps(), "CT050", "finite-difference", loss=loss)


def test_multi_margin_loss():
    def loss(output, target):
        return F.multi_margin_loss(output, target, reduction="none")

    refusal(Around(torch.tanh), "CT050", loss=loss)


def test_flex_attention_on_the_cpu():
    flex = pytest.importorskip("torch.nn.attention.flex_attention").flex_attention
    model = Around(torch.tanh, Module(lambda x: flex(x[:, None], x[:, None], x[:, None])[:, 0]))
    try:
        problem = problem_of(model)
        preflight_curvature(problem)
    except CurvtoolError as error:
        assert error.exit_status in {3, 5} and error.remedy
    else:  # a torch that has it: then the product is right
        assert relative(Hessian(problem).materialize(), dense(model)) < 1e-8


def test_a_fully_sharded_model_is_refused():
    pytest.importorskip("torch.distributed.fsdp")
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Replicate

    if not torch.distributed.is_available() or importlib.util.find_spec("torch.distributed.tensor") is None:
        pytest.skip("no torch.distributed")
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        model = nn.Linear(3, 2)
        model.weight = nn.Parameter(DTensor.from_local(model.weight.detach(), mesh, [Replicate()]))
        with pytest.raises(CurvtoolError, match="full_tensor"):
            Problem(model, (torch.ones(2, 3), torch.zeros(2).long()))
    finally:
        torch.distributed.destroy_process_group()


# the last resort


def test_differences_of_gradients_where_nothing_else_works():
    model, plain = Bag().double(), Mean().double()
    plain.load_state_dict(model.state_dict())
    problem = problem_of(model, (TOKENS, Y))
    check_problem(problem)
    found = Hessian(problem, mode="finite-difference", batch_size=5)
    true = dense(plain, TOKENS, Y)
    v = found.space.normal(1)
    error = float((found @ v - true @ v).norm() / (true @ v).norm())
    assert error < 1e-8 and found.execution.difference_step.error < 1e-7
    checks = preflight_curvature(problem, mode="finite-difference")
    assert 0 < checks.noise_floor < 1e-7 and checks.finite_difference is None
    values = eigenvalues(found, k=2, rtol=1e-6).values
    assert values == pytest.approx(torch.linalg.eigvalsh(true)[-2:].flip(0).tolist(), rel=1e-6)


def test_the_error_that_differences_state_is_theirs():
    """Over kinks and for weights in float32 too: what is stated is within a factor of a few of what it is."""
    for seed in range(12):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3))
        data = (torch.randn(40, 6), torch.randint(0, 3, (40,)))
        found = Hessian(Problem(model, data), mode="finite-difference")
        true = Hessian(Problem(model, data, dtype=torch.float64))
        v = found.space.normal(2)
        wanted = true @ v.double()
        error = float((found @ v - wanted).norm() / wanted.norm())
        stated = max(found.difference_error(), torch.finfo(torch.float32).eps)
        assert error < 10 * stated < 1e-4


def test_differences_are_the_hessians_alone():
    with pytest.raises(CurvtoolError, match="CT003"):
        GaussNewton(problem_of(Around(torch.tanh)), mode="finite-difference") @ torch.ones(75, dtype=torch.float64)
