"""What a run would do and cost, without doing it (`--dry-run`)."""

from __future__ import annotations

import torch

from curvtool.config.analyses import CheckConfig, DensityConfig, DiagConfig, EigsConfig, JacnormConfig, VerifyConfig
from curvtool.config.schema import RunConfig
from curvtool.estimators.density import is_small
from curvtool.estimators.jacobian_norms import MAX_EXACT_OUTPUTS
from curvtool.estimators.observer import SILENT, Observer
from curvtool.estimators.request import Request, basis_size, storage_for
from curvtool.operators.calibration import measured_seconds
from curvtool.operators.jacobian import InputJacobian
from curvtool.operators.named import OPERATORS
from curvtool.pipeline import settings
from curvtool.pipeline.load import load
from curvtool.report import model as report


def plan(config: RunConfig, observer: Observer = SILENT) -> report.Plan:
    """What the run would do: sizes, and the measured time of one product times a typical number of them."""
    loaded = load(config, observer)
    problem, analysis = loaded.problem, config.analysis
    budget = settings.memory_budget(config, problem.device)
    notes: list[str] = []
    if isinstance(analysis, JacnormConfig):
        jacobian = InputJacobian(problem, batch_size=settings.batch_size(config), memory_budget=budget)
        smaller = min(jacobian.output_dim, jacobian.input_dim)
        exact = smaller <= MAX_EXACT_OUTPUTS
        expected = float(smaller if exact else 16 + 2 * 15)
        rows = range(min(jacobian.batch_size, problem.num_samples))
        one = torch.zeros(len(rows), jacobian.output_dim, dtype=problem.dtype, device=problem.device)
        seconds = measured_seconds(lambda: jacobian.vjp(rows, one), problem.device) * problem.num_samples / len(rows)
        graph_bytes, vectors, batch_size, mode = (
            0,
            jacobian.output_dim * jacobian.input_dim * len(rows) * one.itemsize,
            jacobian.batch_size,
            "vjp",
        )
        notes.append("exact: every row of every Jacobian" if exact else "by probes and Lanczos, with errors")
    else:
        hessian = OPERATORS[getattr(analysis, "operator", "hessian")](
            problem,
            batch_size=settings.batch_size(config),
            mode=config.compute.hvp,
            memory_budget=budget,
            form=config.compute.operations,
        )
        rows = hessian.batches[0]
        parts = list(hessian.by_parameter(hessian.space.zeros() + 1).values())
        for _ in range(2):  # makes the graph that later products share, and warms up
            hessian.execution.product(rows, parts)
        seconds = (
            measured_seconds(lambda: hessian.execution.product(rows, parts), problem.device)
            * problem.num_samples
            / len(rows)
        )
        if isinstance(analysis, EigsConfig):
            expected = 3.0 * analysis.k * (2 if analysis.which == "be" else 1) + 3
            request = Request(
                analysis.k,
                analysis.which or "la",
                block_size=analysis.block_size,
                memory_budget=budget // 2,
                basis=analysis.basis,
            )
            basis = analysis.max_basis or basis_size(hessian.space, request)
            coarse = {
                "bfloat16": 2 / hessian.space.dtype.itemsize,
                "host": 0.0 if problem.device.type != "cpu" else 1.0,
            }
            basis = int(basis * coarse.get(storage_for(hessian.space, request), 1.0))
            notes.append("well separated largest eigenvalues; smallest or clustered ones take several times as many")
        elif isinstance(analysis, DensityConfig):
            small = is_small(hessian.space, analysis.probes, analysis.steps, budget // 2)
            if analysis.method == "exact" or (analysis.method == "auto" and small):
                expected, basis = float(hessian.space.dim), hessian.space.dim
                notes.append("a product a column of the whole matrix")
            else:
                expected, basis = analysis.probes * analysis.steps + 5.0 * analysis.outliers + 10, analysis.steps
                basis *= max(
                    1, min(analysis.probes, hessian.block_width, budget // 2 // (basis * hessian.space.vector_bytes))
                )
                notes.append("probes times steps, the outliers, and a trace to compare with")
        elif isinstance(analysis, DiagConfig):
            expected, basis = min(20 * (0.1 / analysis.rtol) ** 2, float(hessian.diagonal_cost)), 4
            notes.append("passes grow as 1/rtol^2 and depend on the spectrum")
        elif isinstance(analysis, CheckConfig):
            expected, basis = 12.0, 4
        elif isinstance(analysis, VerifyConfig):
            expected, basis = 3.0 * analysis.k + 15, 20
            notes.append("curvtool's own; the dense matrix takes a product a parameter, PyHessian often hundreds")
        else:
            expected, basis = 10 * (0.05 / analysis.rtol) ** 2, 1
            if analysis.rtol < 0.03:
                expected, basis = 4 * expected**0.5, int(2 * expected**0.5)
            notes.append("passes depend on the spectrum, and on rtol")
        notes.append("an order of magnitude: small models often take several times as many products")
        vectors = (basis + 4) * hessian.space.vector_bytes
        per_sample = hessian.execution.calibration.graph_bytes_per_sample
        graph_bytes = min(per_sample * problem.num_samples, hessian.execution.graph_budget)
        batch_size, mode = hessian.batch_size, hessian.execution.describe()
    return report.Plan(
        kind=analysis.kind,
        model=loaded.model_name,
        num_params=problem.num_params,
        num_trainable=sum(p.numel() for p in problem.parameters.values()),
        num_samples=problem.num_samples,
        device=str(problem.device),
        dtype=str(problem.dtype).removeprefix("torch."),
        batch_size=batch_size,
        ad_mode=mode,
        expected_products=expected,
        seconds_per_product=seconds,
        expected_seconds=seconds * expected,
        graph_bytes=graph_bytes,
        vector_bytes=vectors,
        memory_budget=budget,
        notes=notes,
    )
