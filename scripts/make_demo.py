#!/usr/bin/env python
"""Makes the embedded example's data and weights (curvtool/problem/demo/); needs scikit-learn.

Training runs in float64 on one thread from a fixed seed and is rounded to float32 at its end, so that the same
versions give the same weights again, and other versions ones that differ in their last digits at most.

    python scripts/make_demo.py [--output FOLDER]
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy

from curvtool.problem.demo import IMAGES, WEIGHTS, digits_net

EPOCHS, BATCH, RATE = 5, 64, 3e-3


def train(images: torch.Tensor, labels: torch.Tensor) -> torch.nn.Module:
    """Adam with a linearly falling rate, batches in an order drawn by a fixed seed."""
    torch.manual_seed(0)
    model = digits_net().double()
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    order = torch.Generator().manual_seed(0)
    steps = EPOCHS * -(-len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, steps)
    for _ in range(EPOCHS):
        for index in torch.randperm(len(images), generator=order).split(BATCH):
            optimizer.zero_grad()
            cross_entropy(model(images[index]), labels[index]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=WEIGHTS.parent, help="folder to write to")
    folder = parser.parse_args().output
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    digits = load_digits()
    np.savez_compressed(
        folder / IMAGES.name, images=digits.images.astype(np.uint8), labels=digits.target.astype(np.uint8)
    )
    images = torch.from_numpy(digits.images).div(16).unsqueeze(1)
    labels = torch.from_numpy(digits.target)
    model = train(images, labels)
    with torch.no_grad():
        output = model(images)
    print(f"loss {cross_entropy(output, labels):.5f}, accuracy {(output.argmax(1) == labels).float().mean():.4f}")
    state = {name: t.float() if t.is_floating_point() else t for name, t in model.state_dict().items()}
    save_file(state, folder / WEIGHTS.name)
    (folder / WEIGHTS.name).chmod(0o644)


if __name__ == "__main__":
    main()
