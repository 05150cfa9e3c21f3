"""Peak memory of five eigenpairs of a 25-million-parameter network with 12 basis vectors, beside the sum of its parts.

    python scripts/bench/memory.py [--width 4096] [--basis 12] [-k 5]

The peak is the process's, so what Python, torch and the network took before the run is shown apart.
"""

from __future__ import annotations

import argparse

import torch

from curvtool import Hessian, Problem, eigenvalues
from curvtool.operators.memory import peak_bytes

MIB = 2**20


def main() -> None:
    """Runs once and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--basis", type=int, default=12)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("-k", type=int, default=5)
    options = parser.parse_args()
    torch.manual_seed(0)
    width = options.width
    model = torch.nn.Sequential(
        torch.nn.Linear(2048, width),
        torch.nn.Tanh(),
        torch.nn.Linear(width, width),
        torch.nn.Tanh(),
        torch.nn.Linear(width, 10),
    )
    x, y = torch.randn(options.samples, 2048), torch.randint(0, 10, (options.samples,))
    (model(x).sum() * 0).backward()  # what the first forward and backward pass load
    model.zero_grad(set_to_none=True)
    device = torch.device("cpu")
    before = peak_bytes(device)
    hessian = Hessian(Problem(model, (x, y)), batch_size=options.samples, mode="kept")
    result = eigenvalues(hessian, options.k, max_basis=options.basis, rtol=1e-3, max_passes=300)
    peak = peak_bytes(device)
    vector = hessian.space.vector_bytes
    graph = hessian.execution.calibration.graph_bytes_per_sample * options.samples
    parts = {
        "before the run": before,
        "the problem's copy of the parameters": vector,
        f"basis of {options.basis} + 1 vectors": (options.basis + 1) * vector,
        f"{options.k} eigenvectors": options.k * vector,
        "a product, its parts and what is taken out of it": 3 * vector,
        "the gradient and its graph": vector + graph,
    }
    print(f"{hessian.space.dim:,} parameters, a vector {vector / MIB:.0f} MiB, {result.cost.num_hvps:g} products")
    print(f"converged: {result.converged}; eigenvalues {', '.join(f'{v:.6g}' for v in result.values)}")
    for name, size in parts.items():
        print(f"{size / MIB:8.0f} MiB  {name}")
    print(f"{sum(parts.values()) / MIB:8.0f} MiB  their sum")
    print(f"{peak / MIB:8.0f} MiB  peak")


if __name__ == "__main__":
    main()
