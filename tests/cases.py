"""The table of cases: small problems, each with its loss once more by torch alone, over all data at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from curvtool import Problem


@dataclass(frozen=True)
class Case:
    """`make(dtype)` gives model, inputs and targets; `mean_loss(model, inputs, targets)` is the oracle's loss."""

    name: str
    make: Callable[[torch.dtype], tuple[nn.Module, Any, Any]]
    mean_loss: Callable[[nn.Module, Any, Any], torch.Tensor]
    loss: Any = "cross-entropy"
    batch_size: int = 4
    options: dict[str, Any] = field(default_factory=dict)

    def problem(self, dtype: torch.dtype = torch.float64) -> Problem:
        model, inputs, targets = self.make(dtype)
        return Problem(model, (inputs, targets), self.loss, **self.options)

    def __str__(self) -> str:
        return self.name


def _seeded(seed: int = 0) -> torch.Generator:
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)


def _cross_entropy(model, x, y):
    return F.cross_entropy(model(x), y)


def conv_batchnorm(dtype):
    g = _seeded(1)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.GELU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 4)
    ).to(dtype)
    x = torch.randn(10, 2, 4, 4, generator=g, dtype=torch.float64).to(dtype)
    model.train()
    with torch.no_grad():
        model(x)  # statistics that are not those of an untrained layer
    model.eval()
    return model, x, torch.randint(0, 4, (10,), generator=g)


class Attention(nn.Module):
    """A transformer layer over the fused attention operation, and a head on each position."""

    def __init__(self, width=4, classes=3):
        super().__init__()
        self.project = nn.Linear(width, 3 * width)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        q, k, v = self.project(x).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.head(self.norm(x + mixed.transpose(1, 2).flatten(2)))


def attention(dtype):
    g = _seeded(2)
    x = torch.randn(6, 5, 4, generator=g, dtype=torch.float64).to(dtype)
    return Attention().to(dtype), x, torch.randint(0, 3, (6, 5), generator=g)


def _token_loss(model, x, y):
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        return F.cross_entropy(model(x).flatten(0, 1), y.flatten())


def attention_ignore_index(dtype):
    model, x, y = attention(dtype)
    y = y.clone()
    y[0, 1:] = -100
    y[3] = -100  # a sample that does not count at all
    y[4:6] = -100  # a whole batch that does not
    return model, x, y


class Tied(nn.Module):
    """A language model whose output layer is its embedding."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(6, 4)
        self.mix = nn.Linear(4, 4)
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids):
        return self.head(torch.tanh(self.mix(self.embedding(ids))))


def tied(dtype):
    g = _seeded(3)
    return Tied().to(dtype), torch.randint(0, 6, (7, 3), generator=g), torch.randint(0, 6, (7, 3), generator=g)


class Unused(nn.Module):
    """A frozen layer, one that the output does not use, and one that it is linear in."""

    def __init__(self):
        super().__init__()
        self.frozen = nn.Linear(3, 5).requires_grad_(False)
        self.unused = nn.Linear(2, 2)
        self.hidden = nn.Linear(5, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.hidden(self.frozen(x))))


def unused(dtype):
    g = _seeded(4)
    x = torch.randn(9, 3, generator=g, dtype=torch.float64).to(dtype)
    return Unused().to(dtype), x, torch.randint(0, 3, (9,), generator=g)


def regression(dtype):
    g = _seeded(5)
    model = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2)).to(dtype)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)
    return model, draw(11, 3), draw(11, 2)


def binary(dtype):
    g = _seeded(6)
    model = nn.Sequential(nn.Linear(3, 4), nn.Softplus(), nn.Linear(4, 1)).to(dtype)
    x = torch.randn(10, 3, generator=g, dtype=torch.float64).to(dtype)
    return model, x, torch.randint(0, 2, (10,), generator=g).to(dtype)


class DictModel(nn.Module):
    """Named inputs, and an output that is a dictionary."""

    def __init__(self):
        super().__init__()
        self.left = nn.Linear(2, 4)
        self.right = nn.Linear(3, 4)

    def forward(self, a, b):
        return {"extra": a, "logits": torch.tanh(self.left(a)) * self.right(b)}


def dictionary(dtype):
    g = _seeded(7)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)
    return DictModel().to(dtype), {"a": draw(9, 2), "b": draw(9, 3)}, torch.randint(0, 4, (9,), generator=g)


def _user_loss(output, target):
    return (output - target).abs().pow(3).sum(1)


CASES = [
    Case("conv-batchnorm", conv_batchnorm, _cross_entropy, batch_size=4),
    Case("attention", attention, _token_loss, batch_size=4),
    Case("ignore-index", attention_ignore_index, _token_loss, batch_size=2),
    Case("tied", tied, lambda m, x, y: F.cross_entropy(m(x).flatten(0, 1), y.flatten()), batch_size=3),
    Case("unused-frozen", unused, _cross_entropy, batch_size=2),
    Case("regression", regression, lambda m, x, y: F.mse_loss(m(x), y), loss="mse", batch_size=4),
    Case(
        "binary",
        binary,
        lambda m, x, y: F.binary_cross_entropy_with_logits(m(x), y[:, None]),
        loss="bce-with-logits",
        batch_size=3,
    ),
    Case("dictionary", dictionary, lambda m, x, y: F.cross_entropy(m(**x)["logits"], y), batch_size=5),
    Case("user-loss", regression, lambda m, x, y: _user_loss(m(x), y).mean(), loss=_user_loss, batch_size=4),
    Case(
        "sum",
        regression,
        lambda m, x, y: F.mse_loss(m(x), y, reduction="sum"),
        loss="mse",
        options={"reduction": "sum"},
    ),
    Case(
        "subset-of-parameters",
        conv_batchnorm,
        _cross_entropy,
        options={"include": ("0.*", "5.*"), "exclude": ("*.bias",)},
    ),
]
