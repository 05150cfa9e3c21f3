"""Dense answers in float64, from torch alone: the whole data in one batch, rows of double backward."""

from __future__ import annotations

import torch
from cases import Case

from curvtool import Problem


def dense_hessian(case: Case) -> torch.Tensor:
    """The Hessian over the parameters that the problem of the case takes, (P, P)."""
    model, inputs, targets = case.make(torch.float64)
    model.eval()
    names = list(case.problem().parameters)
    parameters = [p for name, p in model.named_parameters() if name in names]
    loss = case.mean_loss(model, inputs, targets)
    gradient = torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True)
    flat = torch.cat([g.reshape(-1) for g in gradient])
    rows = []
    for entry in flat:
        if not entry.requires_grad:
            rows.append(torch.zeros_like(flat))
            continue
        row = torch.autograd.grad(entry, parameters, retain_graph=True, materialize_grads=True)
        rows.append(torch.cat([r.reshape(-1) for r in row]))
    return torch.stack(rows).detach()


def dense_jacobian(problem: Problem, model: torch.nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """dz_i/dx_i of every example by itself, (N, C, d)."""
    model.eval()

    def one(x: torch.Tensor) -> torch.Tensor:
        return model(x[None])[0].reshape(-1)

    return torch.stack([torch.autograd.functional.jacobian(one, x).flatten(1) for x in inputs])


def relative(found: torch.Tensor, true: torch.Tensor) -> float:
    """Largest absolute deviation over the largest true entry."""
    return float((found - true).abs().max() / true.abs().max().clamp_min(1e-300))
