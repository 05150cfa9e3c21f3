"""What norms of Jacobians would cost: an order of magnitude."""

from __future__ import annotations

from dataclasses import replace

import torch

from curvtool.config.schema import RunConfig
from curvtool.estimators.jacobian_norms import MAX_EXACT_OUTPUTS
from curvtool.operators.calibration import measured_seconds
from curvtool.operators.jacobian import InputJacobian
from curvtool.planning.cost_model import ClusterModel
from curvtool.planning.needs import Need
from curvtool.planning.plan import Measured, forecast
from curvtool.problem.problem import Problem
from curvtool.session import settings


def measured(config: RunConfig, problem: Problem, budget: int, ranks: int, bandwidth: float) -> tuple[Need, Measured]:
    """Of norms of Jacobians: every rank has its own samples, and nothing but norms passes between them."""
    jacobian = InputJacobian(problem, batch_size=settings.batch_size(config), memory_budget=budget)
    smaller = min(jacobian.output_dim, jacobian.input_dim)
    exact = smaller <= MAX_EXACT_OUTPUTS
    note = "exact: every row of every Jacobian" if exact else "by probes and Lanczos, with errors"
    rows = range(min(jacobian.batch_size, problem.num_samples))
    one = torch.zeros(len(rows), jacobian.output_dim, dtype=problem.dtype, device=problem.device)
    seconds = measured_seconds(lambda: jacobian.vjp(rows, one), problem.device) * problem.num_samples / len(rows)
    model = ClusterModel(
        num_params=problem.num_params,
        itemsize=one.itemsize,
        num_samples=problem.num_samples,
        product_seconds=seconds,
        ranks=ranks,
        bandwidth=bandwidth,
        batch_size=jacobian.batch_size,
        exchanged=False,
    )
    held = jacobian.output_dim * jacobian.input_dim * len(rows) * one.itemsize
    need = Need(float(smaller if exact else 16 + 2 * 15), 0, notes=[note])
    on_ranks = forecast(model, replace(model.bytes, working=held), need.products) if ranks > 1 else None
    return need, Measured(jacobian.batch_size, "vjp", seconds, 0, held, on_ranks)
