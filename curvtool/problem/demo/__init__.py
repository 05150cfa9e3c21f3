"""The embedded example `demo:digits`: a small convolutional classifier of the UCI handwritten digits.

Data: "Optical Recognition of Handwritten Digits", E. Alpaydin and C. Kaynak, UCI Machine Learning Repository (1998),
doi:10.24432/C50P49, licensed CC BY 4.0; the 1,797 test images of 8x8 pixels as scikit-learn ships them, stored here as
8-bit integers. Weights: made by `scripts/make_demo.py`, which gives the same ones again.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from curvtool.problem.checkpoints.load import load_model
from curvtool.problem.data import Data

NAME = "demo:digits"
WEIGHTS = Path(__file__).parent / "digits_net.safetensors"
IMAGES = Path(__file__).parent / "digits.npz"


def digits_net() -> nn.Module:
    """Two convolutions with BatchNorm and GELU, one linear layer: 3,842 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.GELU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(16 * 4 * 4, 10),
    )


def trained_digits_net() -> nn.Module:
    """`digits_net` with its trained weights."""
    return load_model(WEIGHTS, digits_net())[0]


def digits() -> Data:
    """The 1,797 images as float32 (N, 1, 8, 8) between 0 and 1, with their labels."""
    with np.load(IMAGES, allow_pickle=False) as archive:
        images = torch.from_numpy(archive["images"]).float().div_(16).unsqueeze(1)
        labels = torch.from_numpy(archive["labels"]).long()
    return Data(images, labels)
