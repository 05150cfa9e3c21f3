"""Every named loss beside torch's own mean, its output-space Hessian and its matrices beside autograd's, in float64."""

import pytest
import torch
from oracles import relative
from torch import nn
from torch.nn import functional as F

from curvtool import CurvtoolError, EmpiricalFisher, Fisher, GaussNewton, Hessian, Problem
from curvtool.problem.losses.named import LOSS_NAMES, get_loss
from curvtool.problem.validation import check_problem

G = torch.Generator().manual_seed(0)


def _draw(*shape):
    return torch.randn(*shape, generator=G, dtype=torch.float64)


INPUTS = _draw(11, 3)
LABELS = torch.randint(0, 4, (11,), generator=G)
IGNORED = torch.where(torch.arange(11) % 4 == 0, -100, LABELS)
REAL, COUNTS = _draw(11, 4), torch.randint(0, 5, (11, 4), generator=G).double()
BINARY = torch.randint(0, 2, (11, 4), generator=G).double()
SOFT = _draw(11, 4).softmax(1)
WEIGHTS = [0.5, 2.0, 0.0, 1.25]
W = torch.tensor(WEIGHTS, dtype=torch.float64)


def _softplus_halves(z):
    return z[:, :2], F.softplus(z[:, 2:])


class Halves(nn.Module):
    """Means and positive variances, as a pair."""

    def __init__(self):
        super().__init__()
        self.body = net()

    def forward(self, x):
        return _softplus_halves(self.body(x))


class LogProbabilities(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = net()

    def forward(self, x):
        return self.body(x).log_softmax(1)


class Rates(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = net()

    def forward(self, x):
        return F.softplus(self.body(x))


def net():
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4)).double()


# name, options, module, targets, torch's mean over all data from what the module returns
ROWS = [
    ("cross-entropy", {}, net, LABELS, F.cross_entropy),
    ("cross-entropy", {"ignore_index": 3}, net, LABELS, lambda z, y: F.cross_entropy(z, y, ignore_index=3)),
    ("cross-entropy", {"class_weights": WEIGHTS}, net, IGNORED, lambda z, y: F.cross_entropy(z, y, weight=W)),
    ("cross-entropy", {"label_smoothing": 0.1}, net, IGNORED, lambda z, y: F.cross_entropy(z, y, label_smoothing=0.1)),
    (
        "cross-entropy",
        {"label_smoothing": 0.3, "class_weights": WEIGHTS},
        net,
        IGNORED,
        lambda z, y: F.cross_entropy(z, y, weight=W, label_smoothing=0.3),
    ),
    (
        "cross-entropy",
        {"label_smoothing": 0.3, "class_weights": WEIGHTS},
        net,
        SOFT,
        lambda z, y: F.cross_entropy(z, y, weight=W, label_smoothing=0.3),
    ),
    ("nll", {}, LogProbabilities, LABELS, F.nll_loss),
    ("nll", {"class_weights": WEIGHTS}, LogProbabilities, IGNORED, lambda z, y: F.nll_loss(z, y, weight=W)),
    ("bce-with-logits", {}, net, BINARY, F.binary_cross_entropy_with_logits),
    (
        "bce-with-logits",
        {"pos_weight": WEIGHTS},
        net,
        BINARY,
        lambda z, y: F.binary_cross_entropy_with_logits(z, y, pos_weight=W),
    ),
    (
        "bce-with-logits",
        {"pos_weight": 3},
        net,
        BINARY,
        lambda z, y: F.binary_cross_entropy_with_logits(z, y, pos_weight=torch.tensor(3.0)),
    ),
    ("mse", {}, net, REAL, F.mse_loss),
    ("l1", {}, net, REAL, F.l1_loss),
    ("smooth-l1", {"beta": 0.7}, net, REAL, lambda z, y: F.smooth_l1_loss(z, y, beta=0.7)),
    ("huber", {"delta": 0.6}, net, REAL, lambda z, y: F.huber_loss(z, y, delta=0.6)),
    ("poisson-nll", {}, net, COUNTS, F.poisson_nll_loss),
    ("poisson-nll", {"full": True}, net, COUNTS, lambda z, y: F.poisson_nll_loss(z, y, full=True)),
    ("poisson-nll", {"log_input": False}, Rates, COUNTS, lambda z, y: F.poisson_nll_loss(z, y, log_input=False)),
    ("gaussian-nll", {}, Halves, REAL[:, :2], lambda z, y: F.gaussian_nll_loss(z[0], y, z[1])),
    (
        "gaussian-nll",
        {"log_variance": True},
        net,
        REAL[:, :2],
        lambda z, y: F.gaussian_nll_loss(z[:, :2], y, z[:, 2:].exp()),
    ),
]
IDS = [f"{name}{options or ''}" for name, options, *_ in ROWS]


def _made(name, options, make, targets, **more):
    torch.manual_seed(1)
    model = make()
    problem = Problem(model, (INPUTS, targets), get_loss(name, **options), **more)
    check_problem(problem)
    return model, problem


def _dense(model, mean):
    """The Hessian of `mean(model)`, (P, P)."""
    parameters = list(model.parameters())
    gradient = torch.autograd.grad(mean(model), parameters, create_graph=True)
    flat = torch.cat([g.reshape(-1) for g in gradient])
    rows = [torch.autograd.grad(e, parameters, retain_graph=True, materialize_grads=True) for e in flat]
    return torch.stack([torch.cat([r.reshape(-1) for r in row]) for row in rows])


@pytest.mark.parametrize(("name", "options", "make", "targets", "mean"), ROWS, ids=IDS)
def test_the_hessian_is_that_of_torchs_mean_over_all_data(name, options, make, targets, mean):
    model, problem = _made(name, options, make, targets)
    dense = _dense(model, lambda m: mean(m(INPUTS), targets))
    found = Hessian(problem, batch_size=4)
    assert relative(found.materialize(), dense) < 1e-8
    assert found.loss_and_gradient()[0] == pytest.approx(float(mean(model(INPUTS), targets)), rel=1e-12)
    forward = Hessian(problem, batch_size=4, mode="fresh", form="torch").materialize()
    assert relative(forward, dense) < 1e-8


@pytest.mark.parametrize(("name", "options", "make", "targets", "mean"), ROWS, ids=IDS)
def test_the_output_space_product_is_autograds(name, options, make, targets, mean):
    _, problem = _made(name, options, make, targets)
    loss = problem.loss
    with torch.no_grad():
        z = problem.prediction(problem.forward(problem.parameters, INPUTS))
    u = _draw(*z.shape)
    z.requires_grad_()
    (gradient,) = torch.autograd.grad(loss.sum(z, targets), z, create_graph=True)
    true = torch.zeros_like(z)
    if gradient.requires_grad:
        true = torch.autograd.grad(gradient, z, u, materialize_grads=True)[0]
    assert torch.allclose(loss.output_hessian_product(z, targets, u), true, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(("name", "options", "make", "targets", "mean"), ROWS, ids=IDS)
def test_gauss_newton_and_fisher(name, options, make, targets, mean):
    model, problem = _made(name, options, make, targets)
    if name in {"nll", "l1"}:
        with pytest.raises(CurvtoolError, match="CT008"):
            GaussNewton(problem)
        return
    # the loss of a linearised model has the Gauss-Newton matrix as its Hessian
    parameters = list(model.parameters())
    joined = lambda out: torch.cat(list(out), 1) if isinstance(out, tuple) else out
    z0 = joined(model(INPUTS))
    rows = [torch.autograd.grad(e, parameters, retain_graph=True) for e in z0.reshape(-1)]
    jacobian = torch.stack([torch.cat([r.reshape(-1) for r in row]) for row in rows])

    def of_outputs(z):
        return mean((z[:, :2], z[:, 2:]) if make is Halves else z, targets)

    middle = torch.autograd.functional.hessian(of_outputs, z0.detach()).reshape(z0.numel(), -1)
    assert relative(GaussNewton(problem, batch_size=4).materialize(), jacobian.T @ middle @ jacobian) < 1e-8
    if problem.loss.is_likelihood:
        assert relative(Fisher(problem).materialize(), jacobian.T @ middle @ jacobian) < 1e-8
    else:
        with pytest.raises(CurvtoolError, match="CT008"):
            Fisher(problem)


def test_every_name_is_in_the_table():
    assert {name for name, *_ in ROWS} | {"causal-lm", "masked-lm", "model"} == set(LOSS_NAMES)


class LanguageModel(nn.Module):
    """One causal attention layer; `forward` returns its own loss too, when it is given labels."""

    def __init__(self, vocabulary=7, width=4, causal=True, shift=True, reduction="mean"):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.project = nn.Linear(width, 3 * width)
        self.head = nn.Linear(width, vocabulary)
        self.causal, self.shift, self.reduction = causal, shift, reduction

    def forward(self, input_ids, attention_mask=None, labels=None):
        x = self.embed(input_ids)
        q, k, v = self.project(x)[:, None].chunk(3, -1)
        mask = None if attention_mask is None else attention_mask[:, None, None, :].bool()
        if self.causal:
            lower = torch.ones(x.shape[1], x.shape[1]).tril().bool()
            mask = lower if mask is None else mask & lower
        logits = self.head(torch.tanh(x + F.scaled_dot_product_attention(q, k, v, attn_mask=mask)[:, 0]))
        if labels is None:
            return {"logits": logits}
        if self.shift:
            labels = F.pad(labels[:, 1:], (0, 1), value=-100)
        each = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
        if self.reduction == "none":
            return {"loss": each.sum(1) / (labels != -100).sum(1), "logits": logits}
        return {"loss": each.sum() / (labels != -100).sum(), "logits": logits}


LENGTHS = torch.tensor([6, 2, 5, 3, 6, 4, 2, 6, 5])
TOKENS = torch.randint(0, 7, (9, 6), generator=G)
MASK = (torch.arange(6) < LENGTHS[:, None]).long()
UNEVEN = torch.where(MASK.bool(), TOKENS, -100)
UNEVEN[0, 2:4] = -100  # a prompt that does not count
UNEVEN[7] = -100  # a sequence that does not count at all
UNEVEN[1, 1] = -100  # one that only its first token would count for, which nothing predicts
BATCH = {"input_ids": TOKENS, "attention_mask": MASK}


def _language_model(**options):
    torch.manual_seed(3)
    return LanguageModel(**options).double()


def _logits(model):
    with nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
        return model(**BATCH)["logits"]


def _token_losses(model, labels):
    """Written out: minus the log-probability of each label that counts, by sequence."""
    log_p = _logits(model).log_softmax(-1)
    return [[-log_p[i, t, y] for t, y in enumerate(row) if y >= 0] for i, row in enumerate(labels.tolist())]


def _shifted(labels):
    return F.pad(labels[:, 1:], (0, 1), value=-100)


def _token_mean(model, labels):
    losses = [value for row in _token_losses(model, labels) for value in row]
    return torch.stack(losses).mean()


def _sample_mean(model, labels):
    return torch.stack([torch.stack(row).mean() for row in _token_losses(model, labels) if row]).mean()


@pytest.mark.parametrize("batch_size", [1, 2, 4, 9])
@pytest.mark.parametrize("reduction", ["mean", "token-mean", "sample-mean"])
@pytest.mark.parametrize("name", ["causal-lm", "masked-lm"])
def test_uneven_sequences_with_ignored_labels(name, reduction, batch_size):
    model = _language_model(causal=name == "causal-lm")
    problem = Problem(model, (BATCH, UNEVEN), name, reduction=reduction)
    check_problem(problem)
    mean = _sample_mean if reduction == "sample-mean" else _token_mean
    labels = _shifted(UNEVEN) if name == "causal-lm" else UNEVEN
    dense = _dense(model, lambda m: mean(m, labels))
    found = Hessian(problem, batch_size=batch_size)
    v = found.space.normal(1)
    assert relative(found @ v, dense @ v) < 1e-8
    assert found.loss_and_gradient()[0] == pytest.approx(float(mean(model, labels)), rel=1e-12)
    terms = sum(found.terms.product(t, v) for t in range(found.terms.number))
    assert relative(terms, dense @ v) < 1e-8


@pytest.mark.parametrize("reduction", ["mean", "sample-mean"])
@pytest.mark.parametrize("name", ["causal-lm", "masked-lm"])
def test_matrices_of_uneven_sequences(name, reduction):
    model = _language_model(causal=name == "causal-lm")
    problem = Problem(model, (BATCH, UNEVEN), name, reduction=reduction)
    labels = _shifted(UNEVEN) if name == "causal-lm" else UNEVEN
    parameters = list(model.parameters())
    counts = [max(len(row), 1) for row in _token_losses(model, labels)]
    logits = _logits(model)
    total = sum(c for c, row in zip(counts, _token_losses(model, labels), strict=True) if row)
    used = sum(bool(row) for row in _token_losses(model, labels))
    flat = lambda value: torch.cat([g.reshape(-1) for g in torch.autograd.grad(value, parameters, retain_graph=True)])
    gauss_newton, empirical = 0, 0
    for i, row in enumerate(labels.tolist()):
        weight = 1 / total if reduction == "mean" else 1 / (used * counts[i])
        gradients = []
        for t, label in enumerate(row):
            if label < 0:
                continue
            jacobian = torch.stack([flat(z) for z in logits[i, t]])
            p = logits[i, t].softmax(-1).detach()
            gauss_newton = gauss_newton + weight * jacobian.T @ (p.diag() - p.outer(p)) @ jacobian
            gradients.append(flat(-logits[i, t].log_softmax(-1)[label]))
        if not gradients:
            continue
        g = torch.stack(gradients)
        mean = g.mean(0)
        empirical = empirical + (g.T @ g / total if reduction == "mean" else mean.outer(mean) / used)
    assert relative(GaussNewton(problem, batch_size=4).materialize(), gauss_newton) < 1e-8
    assert relative(Fisher(problem, batch_size=4).materialize(), gauss_newton) < 1e-8
    assert relative(EmpiricalFisher(problem, batch_size=4).materialize(), empirical) < 1e-8


def test_labels_are_the_tokens_where_there_are_none():
    model = _language_model()
    given = Problem(model, (BATCH, torch.where(MASK.bool(), TOKENS, -100)), "causal-lm")
    found = Problem(model, BATCH | {}, "causal-lm")
    assert found.total_weight == given.total_weight == float((LENGTHS - 1).sum())
    v = torch.ones(sum(p.numel() for p in model.parameters()), dtype=torch.float64)
    assert torch.equal(Hessian(found) @ v, Hessian(given) @ v)
    assert any("tokens themselves" in note for note in found.data.notes)


@pytest.mark.parametrize("batch_size", [1, 4, 9])
@pytest.mark.parametrize(
    ("options", "mean", "counted"),
    [
        ({}, lambda m: _token_mean(m, _shifted(UNEVEN)), "counted targets but the first of each sample"),
        ({"shift": False, "causal": False}, lambda m: _token_mean(m, UNEVEN), "counted targets"),
    ],
)
def test_a_models_own_loss_is_counted_as_it_counts(options, mean, counted, batch_size):
    model = _language_model(**options)
    problem = Problem(model, (BATCH, UNEVEN), "model")
    check_problem(problem)
    assert problem.loss.counting == counted
    dense = _dense(model, mean)
    found = Hessian(problem, batch_size=batch_size)
    v = found.space.normal(1)
    assert relative(found @ v, dense @ v) < 1e-8
    with pytest.raises(CurvtoolError, match="CT008"):
        GaussNewton(problem)


def test_a_models_own_loss_by_groups_that_are_mapped():
    torch.manual_seed(0)

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = net()

        def forward(self, x, y=None):
            z = self.body(x)
            return z if y is None else (z, F.cross_entropy(z, y))

    x, y = _draw(64, 3), torch.randint(0, 4, (64,), generator=G)
    model = Own()
    own = Problem(model, (x, y), "model")
    check_problem(own)
    named = Problem(model.body, (x, y), "cross-entropy")
    found, true = Hessian(own, group_size=8), Hessian(named, group_size=8)
    assert relative(found.materialize(), true.materialize()) < 1e-10
    vectors = torch.stack([found.space.normal(i) for i in range(8)])
    for terms in found.terms.ranges:
        some = vectors[list(terms)]
        assert relative(found.terms.products(terms, some), true.terms.products(terms, some)) < 1e-10


def test_a_models_loss_one_number_a_sample():
    model = _language_model(reduction="none")
    inputs = {name: tensor[[0, 2, 3, 4]] for name, tensor in BATCH.items()}
    problem = Problem(model, (inputs, UNEVEN[[0, 2, 3, 4]]), "model")
    with nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
        dense = _dense(model, lambda m: m(**inputs, labels=UNEVEN[[0, 2, 3, 4]])["loss"].mean())
    assert relative(Hessian(problem, batch_size=3).materialize(), dense) < 1e-8


def test_a_models_loss_that_is_no_mean_is_refused():
    class Summed(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = net()

        def forward(self, x, y):
            return F.cross_entropy(self.body(x), y, reduction="sum")

    with pytest.raises(CurvtoolError, match="is no mean"):
        Problem(Summed(), (INPUTS, LABELS), "model")
    with pytest.raises(CurvtoolError, match="returns no loss"):
        Problem(nn.Bilinear(3, 1, 2).double(), (INPUTS, INPUTS[:, :1]), "model")


@pytest.mark.parametrize(
    ("name", "options", "code"),
    [
        ("cross-entropy", {"label_smoothing": 2}, "CT003"),
        ("cross-entropy", {"class_weights": [1, -1, 0, 2]}, "CT003"),
        ("cross-entropy", {"class_weights": "abc"}, "CT003"),
        ("cross-entropy", {"smoothing": 0.1}, "CT003"),
        ("huber", {"delta": 0}, "CT003"),
        ("huber", {"delta": "x"}, "CT003"),
        ("mse", {"beta": 1}, "CT003"),
        ("cross-entropy", {"class_weights": [1, 2]}, "CT028"),
    ],
)
def test_options_that_make_no_sense(name, options, code):
    with pytest.raises(CurvtoolError, match=code):
        check_problem(Problem(net(), (INPUTS, LABELS), get_loss(name, **options)))


@pytest.mark.parametrize(
    ("name", "make", "targets", "code"),
    [
        ("nll", net, LABELS, "log-probabilities"),
        ("gaussian-nll", net, REAL[:, :2], "variances"),
        ("gaussian-nll", Halves, REAL, "gaussian-nll"),
        ("poisson-nll", net, COUNTS - 1, "row"),
        ("causal-lm", net, LABELS, "CT028"),
    ],
)
def test_predictions_and_targets_that_do_not_fit(name, make, targets, code):
    with pytest.raises(CurvtoolError, match=code):
        check_problem(Problem(make(), (INPUTS, targets), name))


def test_token_mean_needs_tokens():
    with pytest.raises(CurvtoolError, match="CT003"):
        Problem(net(), (INPUTS, REAL), "mse", reduction="token-mean")


def test_a_model_that_writes_to_its_inputs_is_told():
    model = nn.Sequential(nn.ReLU(inplace=True), net())
    with pytest.raises(CurvtoolError, match="writes to its inputs"):
        check_problem(Problem(model, (INPUTS.clone(), LABELS)))


def _rare(num=203):
    """Sorted by class; the last one is rare, and its weight is another."""
    g = torch.Generator().manual_seed(4)
    labels = torch.cat([torch.arange(180) // 60, torch.full((num - 180,), 3)])
    return torch.randn(num, 3, generator=g, dtype=torch.float64), labels


def _weighted(z, y):
    return F.cross_entropy(z, y, weight=torch.tensor([1.0, 1, 1, 9]).to(z))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("loss", [_weighted, F.cross_entropy], ids=["class-weights", "ignored"])
def test_a_weighted_mean_is_found_however_rare_it_shows(loss, dtype):
    x, y = _rare()
    if loss is F.cross_entropy:
        y = torch.where(torch.arange(203) == 150, -100, y)  # one that does not count
    model = net()
    with pytest.raises(CurvtoolError, match="not the mean"):
        check_problem(Problem(model, (x, y), loss, dtype=dtype))
    check_problem(Problem(model, (x, torch.where(y < 0, 0, y)), F.cross_entropy, dtype=dtype))

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = model

        def forward(self, x, labels):
            return loss(self.body(x), labels)

    if loss is _weighted:
        with pytest.raises(CurvtoolError, match="is no mean"):
            Problem(Own(), (x, y), "model", dtype=dtype)
    else:
        assert Problem(Own(), (x, y), "model", dtype=dtype).total_weight == 202


def test_few_masked_prompts_decide_what_a_language_model_counts():
    g = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 7, (200, 6), generator=g)
    labels = ids.clone()
    labels[::40, :3] = -100
    for seed in range(6):
        torch.manual_seed(seed)
        problem = Problem(LanguageModel(), ({"input_ids": ids}, labels), "model")
        assert problem.loss.counting == "counted targets but the first of each sample"
