"""Embeddings with every option: the same matrix in every mode, also where the first samples do not show the option."""

import copy

import pytest
import torch
from oracles import relative
from torch import nn
from torch.nn import functional as F

from curvtool import CurvtoolError, Fisher, GaussNewton, Hessian, Problem
from curvtool.operators.fisher import EmpiricalFisher
from curvtool.operators.preflight import preflight_curvature
from curvtool.problem.checkpoints.scripted import ScriptedModule
from curvtool.problem.validation import check_problem

NUM, LENGTH, WORDS, WIDTH, PAD = 24, 3, 5, 3, 2


def data():
    """Padding and repeated tokens in the last samples alone."""
    g = torch.Generator().manual_seed(0)
    others = torch.tensor([i for i in range(WORDS) if i != PAD])
    ids = others[torch.stack([torch.randperm(WORDS - 1, generator=g)[:LENGTH] for _ in range(NUM)])]
    ids[-2:] = torch.tensor([[PAD, 1, 1], [PAD, PAD, 4]])
    return ids, torch.randint(0, 4, (NUM,), generator=g)


class Module(nn.Module):
    """A model on embeddings: by a module, by a function or in bags; its output may be tied to them."""

    def __init__(self, kind="module", tied=False, **options):
        super().__init__()
        torch.manual_seed(0)
        made = nn.EmbeddingBag if kind == "bag" else nn.Embedding
        self.embed = made(WORDS, WIDTH, **options)
        nn.init.normal_(self.embed.weight)
        self.kind, self.tied, self.options = kind, tied, options
        self.mix, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 4)

    def look_up(self, ids):
        if self.kind == "function":
            return F.embedding(ids, self.embed.weight, **self.options).sum(1)
        return self.embed(ids) if self.kind == "bag" else self.embed(ids).sum(1)

    def forward(self, ids):
        hidden = torch.tanh(self.mix(self.look_up(ids)))
        return hidden @ self.embed.weight[:4].T if self.tied else self.head(hidden)


class Plain(Module):
    """The same by plain operations: padding is looked up in a copy that is a constant."""

    def look_up(self, ids):
        weight, padding = self.embed.weight, self.options.get("padding_idx")
        rows = weight[ids]
        is_padding = torch.zeros_like(ids, dtype=torch.bool) if padding is None else ids == padding % WORDS
        if self.kind != "bag":
            return torch.where(is_padding[..., None], self.constant[ids], rows).sum(1)
        counted = (~is_padding)[..., None].to(rows)
        how = self.options.get("mode", "mean")
        if how == "max":
            return torch.stack([r[c[:, 0] > 0].max(0).values for r, c in zip(rows, counted, strict=True)])
        total = (rows * counted).sum(1)
        return total / counted.sum(1) if how == "mean" else total


OPTIONS = {
    "plain": {},
    "padding": {"padding_idx": PAD},
    "padding-from-the-end": {"padding_idx": PAD - WORDS},
    "scaled": {"scale_grad_by_freq": True},
    "sparse": {"sparse": True},
    "all": {"padding_idx": PAD, "scale_grad_by_freq": True, "sparse": True},
}
CASES = [(kind, tied, name) for kind in ("module", "function") for tied in (False, True) for name in OPTIONS]
CASES += [("bag", False, name) for name in OPTIONS]


def problem_of(kind, tied, options, **settings):
    return Problem(Module(kind, tied, **options).double(), data(), "cross-entropy", **settings)


def dense(kind, tied, options):
    """Hessian and Gauss-Newton matrix of the plain model, in float64."""
    model = Plain(kind, tied, **options).double()
    model.constant = model.embed.weight.detach().clone()
    ids, targets = data()
    parameters = list(model.parameters())
    z = model(ids)

    def rows(flat):
        found = [torch.autograd.grad(e, parameters, retain_graph=True, materialize_grads=True) for e in flat]
        return torch.stack([torch.cat([part.reshape(-1) for part in row]) for row in found]).detach()

    gradient = torch.autograd.grad(F.cross_entropy(z, targets), parameters, create_graph=True, materialize_grads=True)
    flat = torch.cat([g.reshape(-1) for g in gradient])
    hessian = rows([e if e.requires_grad else e + 0 * parameters[0].sum() for e in flat])
    jacobian = rows(z.reshape(-1)).view(NUM, 4, -1)
    p = z.detach().softmax(1)
    middle = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    return hessian, torch.einsum("ncp,ncd,ndq->pq", jacobian, middle, jacobian) / NUM


def shortened():
    """Every option of a module, and of the other kinds what holds all of them; the rest in slow sweeps."""
    is_short = [(kind == "module" and not tied) or name in ("plain", "all") for kind, tied, name in CASES]
    return [
        pytest.param(*case, marks=() if short else pytest.mark.slow)
        for case, short in zip(CASES, is_short, strict=True)
    ]


@pytest.mark.parametrize(("kind", "tied", "name"), shortened())
def test_every_option_in_every_mode(kind, tied, name):
    options = OPTIONS[name]
    hessian, gauss_newton = dense(kind, tied, options)
    ways = [("kept", "torch"), ("fresh", "torch"), ("forward", "torch"), ("forward", "rewritten")]
    for operator, mode, form in [
        *((Hessian, *way) for way in ways), *((GaussNewton, *way) for way in ways), (Fisher, "auto", "auto")
    ]:  # fmt: skip
        made = operator(problem_of(kind, tied, options), mode=mode, form=form, batch_size=7)
        found, true = made.materialize(), hessian if operator is Hessian else gauss_newton
        assert relative(found, true) < 1e-10, (operator.name, mode, form)
        assert relative(found, found.T) < 1e-10
    diagonal = GaussNewton(problem_of(kind, tied, options)).exact_diagonal()
    assert relative(diagonal, gauss_newton.diagonal()) < 1e-10


@pytest.mark.parametrize(("kind", "tied", "name"), [case for case in CASES if case[2] in ("padding", "all")])
def test_differences_of_gradients_hold_the_padding(kind, tied, name):
    hessian, _ = dense(kind, tied, OPTIONS[name])
    made = problem_of(kind, tied, OPTIONS[name])
    assert relative(Hessian(made, mode="finite-difference").materialize(), hessian) < 1e-6
    some = made.restricted(range(NUM - 8, NUM), torch.float64)
    assert preflight_curvature(some).finite_difference < 1e-6
    single = Problem(Module(kind, tied, **OPTIONS[name]), data(), "cross-entropy")
    assert relative(Hessian(single, mode="finite-difference").materialize().double(), hessian) < 1e-5


@pytest.mark.slow
def test_compiled():
    options = OPTIONS["padding"]
    operator = Hessian(problem_of("module", True, options), mode="compiled", batch_size=8)
    try:
        found = operator.materialize()
    except CurvtoolError as error:  # no compiler here
        assert error.code == "CT055"
        pytest.skip(str(error))
    assert relative(found, dense("module", True, options)[0]) < 1e-10


@pytest.mark.parametrize("how", ["sum", "mean", "max"])
def test_bags(how):
    options = {"mode": how, "padding_idx": PAD}
    hessian, gauss_newton = dense("bag", False, options)
    for mode in ("kept", "forward"):
        assert relative(Hessian(problem_of("bag", False, options), mode=mode).materialize(), hessian) < 1e-10
        assert relative(GaussNewton(problem_of("bag", False, options), mode=mode).materialize(), gauss_newton) < 1e-10
    with torch.no_grad():
        model = Module("bag", False, **options).double()
        made = Problem(model, data(), "cross-entropy")
        assert relative(made.forward(made.parameters, data()[0]), model(data()[0])) < 1e-12
        bag = model.embed
        full = torch.full((2, 3), PAD)  # nothing but padding
        assert torch.equal(bag(full), torch.zeros(2, WIDTH, dtype=torch.float64))
        shown = Problem(nn.Sequential(bag, nn.Flatten()), (full, torch.zeros(2, dtype=torch.long)), None)
        assert torch.equal(shown.forward(shown.parameters, full), bag(full))


class Weighted(nn.Module):
    """A bag whose weights are computed."""

    def __init__(self, plain=False):
        super().__init__()
        torch.manual_seed(0)
        self.bag, self.scale = nn.EmbeddingBag(WORDS, 4, mode="sum"), nn.Parameter(torch.tensor([1.0, 0.5, -1.0]))
        self.plain = plain

    def forward(self, ids):
        weights = torch.sin(self.scale).expand(ids.shape)
        if self.plain:
            return torch.tanh((self.bag.weight[ids] * weights[..., None]).sum(1))
        return torch.tanh(self.bag(ids, per_sample_weights=weights))


def test_a_bag_with_weights():
    found, true = (Hessian(Problem(Weighted(p).double(), data(), "cross-entropy")).materialize() for p in (False, True))
    assert relative(found, true) < 1e-10


@pytest.mark.parametrize("kind", ["module", "function", "bag"])
def test_scaling_by_frequency_is_cleared_and_told(kind):
    made = problem_of(kind, False, OPTIONS["scaled"])
    check_problem(made)
    assert [code for code, _ in made.cautions] == ["CT239"]
    assert any("frequencies" in repair for repair in made.repairs)
    assert problem_of(kind, False, {}).cautions == []
    gradient = Hessian(made).loss_and_gradient()[1]
    assert relative(gradient, Hessian(problem_of(kind, False, {})).loss_and_gradient()[1]) < 1e-12


@pytest.mark.parametrize("kind", ["module", "function", "bag"])
def test_rows_that_are_shortened_in_place_are_refused(kind):
    made = problem_of(kind, False, {"max_norm": 0.5})
    before = {name: p.detach().clone() for name, p in made.parameters.items()}
    with pytest.raises(CurvtoolError) as caught:
        check_problem(made)
    assert caught.value.code == "CT050" and "renorm_" in caught.value.remedy
    assert all(torch.equal(p, before[name]) for name, p in made.parameters.items())
    short = Module(kind, False).double()
    with torch.no_grad():  # what the remedy says
        short.embed.weight.renorm_(2, 0, 0.5)
        limited = Module(kind, False, max_norm=0.5).double()
        assert relative(short(data()[0]), limited(data()[0])) < 1e-6  # torch leaves a little room
    check_problem(Problem(short, data(), "cross-entropy"))


def test_tokens_in_floats_that_the_model_casts():
    class Cast(Module):
        def __init__(self):
            super().__init__("function", False, padding_idx=PAD)
            self.embed = nn.ParameterDict({"weight": self.embed.weight})

        def look_up(self, ids):
            return F.embedding(ids.long(), self.embed["weight"], **self.options).sum(1)

    ids, targets = data()
    made = Problem(Cast().double(), (ids.double(), targets), "cross-entropy")
    true = dense("function", False, {"padding_idx": PAD})[1]
    assert relative(GaussNewton(made, mode="forward").materialize(), true) < 1e-10


def test_stacks_and_the_empirical_fisher():
    true = None
    for mode in ("kept", "forward"):
        found = EmpiricalFisher(problem_of("module", True, OPTIONS["all"]), mode=mode).materialize()
        true = found if true is None else true
        assert relative(found, true) < 1e-10
    operator = Hessian(problem_of("module", True, OPTIONS["padding"]), group_size=8)
    vectors = torch.randn(3, operator.space.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    operator.stack.height = 3
    one_by_one = torch.stack([operator.terms.product(t, v) for t, v in enumerate(vectors)])
    assert relative(operator.terms.products(range(3), vectors), one_by_one) < 1e-10


def test_the_model_is_left_as_it_was():
    model = Module("module", False, **OPTIONS["all"]).double()
    before = copy.deepcopy(model.state_dict())
    Hessian(Problem(model, data(), "cross-entropy")).materialize()
    assert model.embed.scale_grad_by_freq and model.embed.sparse
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


class Looked(nn.Module):
    """Nothing that TorchScript does not take."""

    def __init__(self, **options):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(WORDS, WIDTH, **options), nn.Linear(WIDTH, 4)

    def forward(self, ids):
        return self.head(torch.tanh(self.embed(ids)).sum(1))


@pytest.mark.parametrize(
    ("how", "option", "code"),
    [
        ("script", "scale_grad_by_freq", "CT050"),
        ("script", "max_norm", None),  # which torch leaves out of the program
        ("trace", "scale_grad_by_freq", "CT050"),
        ("trace", "max_norm", "CT050"),
        ("export", "scale_grad_by_freq", None),
        ("export", "max_norm", "CT050"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_programs(how, option, code):
    ids = data()[0]
    model = Looked(**{option: True if option == "scale_grad_by_freq" else 0.5}).double()
    if how == "export":
        sizes = ({0: torch.export.Dim("batch")},)
        program = torch.export.export(model, (ids,), dynamic_shapes=sizes).module()
    else:
        program = torch.jit.script(model) if how == "script" else torch.jit.trace(copy.deepcopy(model), ids)
        program = ScriptedModule(program)
    if code is not None:
        with pytest.raises(CurvtoolError) as caught:
            check_problem(Problem(program, data(), "cross-entropy"))
        assert caught.value.code == code and caught.value.remedy
        return
    found = Problem(program, data(), "cross-entropy")
    check_problem(found)
    true = Hessian(Problem(Looked().double(), data(), "cross-entropy")).materialize()
    assert relative(Hessian(found, mode="fresh", form="torch").materialize(), true) < 1e-10
    assert [each for each, _ in found.cautions] == (["CT239"] if option == "scale_grad_by_freq" else [])
