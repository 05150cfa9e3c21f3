"""The `jacnorm` analysis: from its settings to its record."""

from __future__ import annotations

import dataclasses
import io
from functools import partial
from pathlib import Path

import numpy as np
import torch

from curvtool.analyses.jacnorm import thumbnails
from curvtool.analyses.jacnorm.record import JacNorm
from curvtool.analyses.jacnorm.recording import jacnorm_record
from curvtool.analyses.jacnorm.settings import Settings
from curvtool.errors import LoadError, UsageError
from curvtool.estimators.jacobian_directions import jacobian_directions
from curvtool.estimators.jacobian_norms import JacobianNormsResult, jacobian_norms
from curvtool.operators.jacobian import InputJacobian
from curvtool.operators.memory import peak_bytes
from curvtool.operators.preflight import preflight_jacobian
from curvtool.problem.problem import Problem
from curvtool.problem.tree import named_tensors
from curvtool.problem.vectors import to_bytes
from curvtool.report.write import check_writable, write_atomic
from curvtool.session import settings
from curvtool.session.stage import Stage
from curvtool.words import counted


def run(stage: Stage, analysis: Settings) -> JacNorm:
    """Norms of every example's input-output Jacobian."""
    problem = stage.problem
    if problem.sharded is not None:
        raise UsageError(
            "CT003",
            "jacnorm takes whole parameters on every rank",
            expected="a model that fits each device",
            received="--shard-parameters",
            remedy="leave it out: the ranks then share the examples",
        )
    for file in (analysis.per_example, analysis.directions):
        if file:
            stage.cluster.first(partial(check_writable, Path(file)))
    labels = _labels(problem) if analysis.per_class else None
    jacobian = InputJacobian(
        problem,
        batch_size=settings.batch_size(stage.config),
        memory_budget=stage.budget,
        form=stage.config.compute.operations,
    )
    stage.observer.begin("preflight on a small batch")
    stage.checks = preflight_jacobian(problem)
    jacobian.noise = stage.checks.noise_floor
    stage.modes = {
        "ad_mode": "vector-Jacobian products",
        "operations": jacobian.problem.form,
        "batch_size": jacobian.batch_size,
    }
    result = stage.estimate(
        "norms",
        None,
        lambda: jacobian_norms(
            jacobian,
            norm=analysis.norm,
            linf=analysis.linf,
            top=analysis.top,
            max_recomputed=analysis.recompute,
            seed=stage.config.compute.seed,
            observer=stage.observer,
            cluster=stage.cluster,
        ),
    )
    if result.noise_measured is not None:
        noise = max(stage.noise, result.noise_measured)
        reasons = {name: why for name, why in stage.checks.unavailable.items() if name != "noise_floor"}
        stage.checks = dataclasses.replace(stage.checks, noise_floor=noise, unavailable=reasons)
    _warn(stage, result)
    if analysis.per_example:
        stage.save(lambda: stage.cluster.first(lambda: _write_examples(Path(str(analysis.per_example)), result)))
    images: dict[int, tuple[str, str]] = {}
    if analysis.directions:
        target = Path(str(analysis.directions))
        stage.attempt(lambda: images.update(_write_directions(target, jacobian, result, stage)))
    by_embeddings = not any(t.is_floating_point() for _, t in named_tensors(problem.data.inputs))
    return jacnorm_record(result, analysis, labels, peak_bytes(problem.device), by_embeddings, images)


def _warn(stage: Stage, result: JacobianNormsResult) -> None:
    if stage.noise > 1e-3 and stage.problem.dtype == torch.float64:
        stage.warn(
            "CT205",
            f"float64 itself loses digits: rounding moves norms by up to {stage.noise:.1e} (outputs that saturate, as "
            "those of a softmax near 0 and 1): take the outputs before it (the logits)",
        )
    elif stage.noise > 1e-3:
        stage.warn(
            "CT205",
            f"norms in {stage.dtype_name} differ from float64 by up to {stage.noise:.1e} (kinks of ReLU that rounding "
            "crosses, outputs that saturate): --dtype float64 for better numbers",
        )
    if not result.exact:
        stage.warn(
            "CT211",
            f"{result.output_dim} outputs are too many for all rows: the norms are estimates, each with its interval; "
            f"{result.num_recomputed} of {counted(stage.problem.num_samples, 'example')} recomputed exactly",
        )
    if result.top and result.top_rivals and not result.exact:
        others = counted(result.top_rivals, "other example")
        remedy = f"--recompute {result.num_recomputed + result.top_rivals} computes them exactly"
        if not result.top_exact:
            remedy = "no example was recomputed exactly"
        stage.warn(
            "CT248",
            f"the list of the largest {len(result.top)} is uncertain: {others} could belong to it (95 %); {remedy}",
        )


def _labels(problem: Problem) -> np.ndarray:
    """One class index an example.

    Raises:
        LoadError: CT021, the data have no such targets.
    """
    targets = problem.data.targets
    if not isinstance(targets, torch.Tensor) or targets.is_floating_point() or targets.dim() != 1:
        raise LoadError(
            "CT021",
            "--per-class needs class labels",
            expected="integer targets of shape (N,)",
            received="no targets" if targets is None else "targets of another kind",
            remedy="name them with --target-key, or leave --per-class out",
        )
    labels: np.ndarray = targets.cpu().numpy()
    return labels


def _write_directions(
    path: Path, jacobian: InputJacobian, result: JacobianNormsResult, stage: Stage
) -> dict[int, tuple[str, str]]:
    """The listed examples' leading singular vectors, in the inputs' shape where there is one input.

    Returns:
        Where that is an image: small pictures of each example and of its direction, by the row.
    """
    if not result.top:
        return {}
    found = jacobian_directions(jacobian, result.top, seed=stage.config.compute.seed, observer=stage.observer)
    inputs, shape = found.inputs, None
    if isinstance(jacobian.problem.data.inputs, torch.Tensor):
        shape = jacobian.problem.data.inputs.shape[1:]
    if shape is not None and shape.numel() == inputs.shape[1]:
        inputs = inputs.reshape(len(inputs), *shape)
    tensors = {
        "index": torch.tensor(found.index),
        "spectral": found.spectral,
        "inputs": inputs,
        "outputs": found.outputs,
        "inputs_error": found.error,
    }
    metadata = {"what": "sigma u = J v: spectral, outputs (u), inputs (v), a row an example of index"}
    host = {name: t.cpu().contiguous() for name, t in tensors.items()}
    stage.cluster.first(lambda: write_atomic(path, to_bytes(host, metadata)))
    if shape is None or inputs.dim() != 4 or not thumbnails.is_image(shape):
        return {}
    data = jacobian.problem.data.inputs
    return {
        row: (thumbnails.of_image(data[row]), thumbnails.of_direction(direction))
        for row, direction in zip(found.index, inputs, strict=True)
    }


def _write_examples(path: Path, result: JacobianNormsResult) -> None:
    """Every example's norms as .csv or .npz."""
    columns = {
        name: values
        for name in ("frobenius", "frobenius_stderr", "frobenius_degrees", "spectral", "spectral_error", "linf_lower",
                     "linf_upper")
        if (values := getattr(result, name)) is not None
    }  # fmt: skip
    for name in ("frobenius", "spectral"):
        ends = getattr(result, f"{name}_interval")
        if ends is not None:
            columns |= {f"{name}_low": ends[0], f"{name}_high": ends[1]}
    if path.suffix == ".npz":
        buffer = io.BytesIO()
        np.savez(buffer, **columns)
        write_atomic(path, buffer.getvalue())
        return
    lines = [",".join(["index", *columns])]
    lines += [
        ",".join([str(i), *(repr(float(v)) for v in row)]) for i, row in enumerate(zip(*columns.values(), strict=True))
    ]
    write_atomic(path, ("\n".join(lines) + "\n").encode())
