"""Sums and weights reproduce torch's means; targets that cannot be are told by their row."""

import pytest
import torch
from torch.nn import functional as F

from curvtool import CurvtoolError, Problem
from curvtool.problem.losses.cross_entropy import CrossEntropy
from curvtool.problem.losses.named import get_loss
from curvtool.problem.validation import check_problem

G = torch.Generator().manual_seed(0)
LOGITS = torch.randn(10, 4, generator=G, dtype=torch.float64)
LABELS = torch.randint(0, 4, (10,), generator=G)
IGNORED = torch.where(torch.arange(10) % 3 == 0, -100, LABELS)
TOKENS, TOKEN_LABELS = LOGITS.reshape(2, 5, 4), LABELS.reshape(2, 5)
REAL = torch.randn(10, 4, generator=G, dtype=torch.float64)


@pytest.mark.parametrize(
    "name,output,target,mean",
    [
        ("cross-entropy", LOGITS, LABELS, F.cross_entropy(LOGITS, LABELS)),
        ("cross_entropy", LOGITS, LABELS.to(torch.int32), F.cross_entropy(LOGITS, LABELS)),
        ("cross-entropy", LOGITS, IGNORED, F.cross_entropy(LOGITS, IGNORED)),
        ("cross-entropy", LOGITS, REAL.softmax(1), F.cross_entropy(LOGITS, REAL.softmax(1))),
        ("cross-entropy", TOKENS, TOKEN_LABELS, F.cross_entropy(LOGITS, LABELS)),
        ("cross-entropy", TOKENS.movedim(2, 1), TOKEN_LABELS, F.cross_entropy(LOGITS, LABELS)),
        ("mse", LOGITS, REAL, F.mse_loss(LOGITS, REAL)),
        ("mse", LOGITS[:, :1], REAL[:, 0], F.mse_loss(LOGITS[:, 0], REAL[:, 0])),
        ("bce-with-logits", LOGITS, REAL.sigmoid(), F.binary_cross_entropy_with_logits(LOGITS, REAL.sigmoid())),
        (
            "bce-with-logits",
            LOGITS[:, 0],
            LABELS % 2,
            F.binary_cross_entropy_with_logits(LOGITS[:, 0], LABELS.double() % 2),
        ),
    ],
)
def test_ragged_batches_give_torchs_mean(name, output, target, mean):
    loss = get_loss(name)
    loss.check_targets(output, target)
    parts = list(zip(output.split(3), target.split(3), strict=True))
    total = sum(loss.sum(z, y) for z, y in parts) / sum(loss.weight(y) for _, y in parts)
    assert float(total) == pytest.approx(float(mean), rel=1e-12)


def test_callable_mean_or_per_sample():
    for function in (lambda z, y: ((z - y) ** 2).mean(), lambda z, y: ((z - y) ** 2).mean(1)):
        loss = get_loss(function)
        parts = list(zip(LOGITS.split(3), REAL.split(3), strict=True))
        total = sum(loss.sum(z, y) for z, y in parts) / sum(loss.weight(y) for _, y in parts)
        assert float(total) == pytest.approx(float(F.mse_loss(LOGITS, REAL)), rel=1e-12)
    with pytest.raises(CurvtoolError, match="CT028"):
        get_loss(lambda z, y: (z - y) ** 2).sum(LOGITS, REAL)
    with pytest.raises(CurvtoolError, match="CT028"):
        get_loss(lambda z, y: 1.0).sum(LOGITS, REAL)


@pytest.mark.parametrize(
    "name,output,target,code",
    [
        ("cross-entropy", LOGITS, LABELS + 1, "CT022"),
        ("cross-entropy", LOGITS, LABELS - 1, "CT022"),
        ("cross-entropy", LOGITS, REAL[:, 0], "CT028"),
        ("cross-entropy", LOGITS, LABELS.reshape(5, 2), "CT028"),
        ("mse", LOGITS, REAL[:, 0], "CT028"),
        ("mse", LOGITS[:, 0], REAL, "CT028"),
        ("bce-with-logits", LOGITS, REAL * 5, "CT022"),
    ],
)
def test_targets_that_cannot_be(name, output, target, code):
    with pytest.raises(CurvtoolError, match=code):
        get_loss(name).check_targets(output, target)


def test_label_out_of_range_names_its_row():
    labels = LABELS.clone()
    labels[7] = 9
    problem = Problem(torch.nn.Linear(4, 4).double(), (LOGITS, labels))
    with pytest.raises(CurvtoolError, match="row 7"):
        check_problem(problem)


def test_unknown_loss_has_a_suggestion():
    with pytest.raises(CurvtoolError) as caught:
        get_loss("crossentropy")
    assert caught.value.code == "CT001" and "cross-entropy" in caught.value.remedy


def test_only_ignored_targets():
    with pytest.raises(CurvtoolError, match="CT023"):
        Problem(torch.nn.Linear(4, 4).double(), (LOGITS, torch.full((10,), -100)))


@pytest.mark.parametrize(
    ("loss", "is_mean"),
    [
        (torch.nn.MSELoss(reduction="sum"), False),
        (torch.nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2, 3, 4]).double()), False),
        (torch.nn.CrossEntropyLoss(), True),
        (torch.nn.MSELoss(), True),
        (lambda z, y: (z**2).sum(1), True),
    ],
)
def test_one_number_must_be_the_mean(loss, is_mean):
    targets = REAL if isinstance(loss, torch.nn.MSELoss) else LABELS
    problem = Problem(torch.nn.Linear(4, 4).double(), (LOGITS, targets), loss)
    if is_mean:
        check_problem(problem)
    else:
        with pytest.raises(CurvtoolError, match="CT028"):
            check_problem(problem)


def test_classes_that_could_stand_in_two_dimensions():
    with pytest.raises(CurvtoolError, match="CT028"):
        get_loss("cross-entropy").check_targets(torch.zeros(5, 4, 4), torch.zeros(5, 4, dtype=torch.long))
    get_loss("cross-entropy").check_targets(torch.zeros(5, 4, 3), torch.zeros(5, 4, dtype=torch.long))


def test_the_softmax_product_keeps_its_digits_where_the_loss_is_saturated():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 7, generator=generator, dtype=torch.float64) * 20
    tangent = torch.randn(50, 7, generator=generator, dtype=torch.float64)
    target = torch.zeros(50, dtype=torch.long)
    p = torch.softmax(logits, 1)
    differences = tangent[:, :, None] - tangent[:, None, :]
    true = p * torch.einsum("nj,nkj->nk", p, differences)  # p_k sum_j p_j (u_k - u_j)
    product = CrossEntropy().output_hessian_product
    assert torch.allclose(product(logits, target, tangent), true, rtol=1e-9, atol=1e-300)
    found = product(logits.float(), target, tangent.float()).double()
    assert float((found - true).norm(dim=1).div(true.norm(dim=1)).max()) < 1e-4


@pytest.mark.parametrize("chunk", [1, 7, 40, 10**6])
@pytest.mark.parametrize("layout", ["vectors", "images", "tokens", "probabilities"])
def test_softmax_products_in_pieces(layout, chunk, monkeypatch):
    """Against differentiating the loss twice, whatever is worked on at a time."""
    monkeypatch.setattr("curvtool.problem.losses.cross_entropy._CHUNK", chunk)
    generator = torch.Generator().manual_seed(0)
    shapes = {"vectors": (5, 4), "images": (3, 4, 2, 3), "tokens": (3, 5, 4), "probabilities": (5, 4)}
    z = torch.randn(shapes[layout], generator=generator, dtype=torch.float64).requires_grad_()
    if layout == "probabilities":
        y = torch.rand(5, 4, generator=generator, dtype=torch.float64)
    else:
        sizes = {"vectors": (5,), "images": (3, 2, 3), "tokens": (3, 5)}[layout]
        y = torch.randint(0, 4, sizes, generator=generator)
        y.view(-1)[1] = -100
    loss, u = CrossEntropy(), torch.randn(z.shape, generator=generator, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(loss.sum(z, y), z, create_graph=True)
    (true,) = torch.autograd.grad(gradient, z, u)
    found = loss.output_hessian_product(z, y, u)
    assert found.shape == z.shape and torch.allclose(found, true, atol=1e-13)
