"""The `jacnorm` analysis: from its settings to its record."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch

from curvtool.config.analyses import JacnormConfig
from curvtool.errors import LoadError, UsageError
from curvtool.estimators.jacobian_directions import jacobian_directions
from curvtool.estimators.jacobian_norms import JacobianNormsResult, jacobian_norms
from curvtool.operators.jacobian import InputJacobian
from curvtool.operators.memory import peak_bytes
from curvtool.operators.preflight import preflight_jacobian
from curvtool.pipeline import settings, thumbnails
from curvtool.pipeline.records import cost_record
from curvtool.pipeline.stage import Stage
from curvtool.problem.problem import Problem
from curvtool.problem.tree import named_tensors
from curvtool.problem.vectors import to_bytes
from curvtool.report import model as report
from curvtool.report.write import check_writable, write_atomic

_MAX_BINS = 40


def run_jacnorm(stage: Stage, analysis: JacnormConfig) -> report.JacNorm:
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
            seed=stage.config.compute.seed,
            observer=stage.observer,
            cluster=stage.cluster,
        ),
    )
    measured = stage.checks.noise_floor is not None and problem.dtype != torch.float64
    if measured and result.top_exact and result.top:
        stage.attempt(lambda: _check_listed(stage, result, analysis.norm))
    if stage.noise > 1e-3:
        stage.warn(
            "CT205",
            f"norms in {stage.dtype_name} differ from float64 by up to {stage.noise:.1e} (kinks of ReLU that rounding "
            "crosses): --dtype float64 for better numbers",
        )
    if not result.exact:
        stage.warn(
            "CT211",
            f"{result.output_dim} outputs are too many for all rows: the norms are estimates, and the summary's 95 % "
            "and maximum lean upward by about their errors (the listed examples were recomputed: "
            f"{'yes' if result.top_exact else 'no'})",
        )
    if analysis.per_example:
        stage.save(lambda: stage.cluster.first(lambda: _write_examples(Path(str(analysis.per_example)), result)))
    images: dict[int, tuple[str, str]] = {}
    if analysis.directions:
        target = Path(str(analysis.directions))
        stage.attempt(lambda: images.update(_write_directions(target, jacobian, result, stage)))
    by_embeddings = not any(t.is_floating_point() for _, t in named_tensors(problem.data.inputs))
    return _record(result, analysis, labels, peak_bytes(problem.device), by_embeddings, images)


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


def _check_listed(stage: Stage, result: JacobianNormsResult, norm: str) -> None:
    """The noise floor covers the listed examples too."""
    assert stage.checks is not None
    stage.observer.begin("the listed examples in float64")
    noise = max(stage.noise, _noise_of_listed(stage.problem, result, norm))
    stage.checks = dataclasses.replace(stage.checks, noise_floor=noise)


def _noise_of_listed(problem: Problem, result: JacobianNormsResult, norm: str) -> float:
    """How far the listed examples' norms are from float64, relative.

    A kink that rounding crosses shows in a few examples alone, and those listed are the ones that are quoted.
    """
    listed = list(result.top)
    exact = InputJacobian(problem.restricted(listed, torch.float64), batch_size=1, form="torch")
    true = jacobian_norms(exact, norm=norm, top=0, max_exact_outputs=exact.output_dim)
    noise = 0.0
    for found, wanted in ((result.frobenius, true.frobenius), (result.spectral, true.spectral)):
        if found is not None and wanted is not None:
            noise = max(noise, float((abs(found[listed] - wanted) / wanted.clip(1e-300)).max()))
    return noise


def _by_class(result: JacobianNormsResult, labels: np.ndarray, missing: str) -> dict[str, report.ClassNorms]:
    found = {}
    for label in np.unique(labels[: len(_lead(result))]):
        members = np.flatnonzero(labels[: len(_lead(result))] == label)
        facts: dict[str, float | None] = {}
        for norm in ("frobenius", "spectral"):
            values = getattr(result, norm)
            facts[f"{norm}_mean"] = None if values is None else float(values[members].mean())
            facts[f"{norm}_max"] = None if values is None else float(values[members].max())
        reasons = {name: missing for name, value in facts.items() if value is None}
        found[str(int(label))] = report.ClassNorms(num_examples=len(members), **facts, unavailable=reasons)
    return found


def _lead(result: JacobianNormsResult) -> np.ndarray:
    lead = result.spectral if result.spectral is not None else result.frobenius
    assert lead is not None
    return lead


def _record(
    result: JacobianNormsResult,
    analysis: JacnormConfig,
    labels: np.ndarray | None,
    peak: int,
    by_embeddings: bool,
    images: Mapping[int, tuple[str, str]],
) -> report.JacNorm:
    """The record of a `jacnorm` analysis."""

    def at(values: np.ndarray | None, index: int) -> float | None:
        return None if values is None else float(values[index])

    def largest(values: np.ndarray | None) -> float | None:
        return None if values is None else float(values.max())

    unavailable: dict[str, str] = {}
    for norm in ("frobenius", "spectral"):
        if getattr(result, norm) is None:
            unavailable[norm] = f"--norm {analysis.norm}"
    if result.frobenius_stderr is None:
        unavailable["frobenius_max_stderr"] = "no probes took part"
    if result.spectral_error is None:
        unavailable["spectral_max_error"] = "no iteration took part"
    if analysis.per_example is None:
        unavailable["per_example_file"] = "not asked for"
    if result.linf_lower is None:
        reason = "needs all rows" if analysis.linf else "not asked for"
        unavailable |= dict.fromkeys(("linf_lower", "linf_upper"), reason)
    if labels is None:
        unavailable["per_class"] = "not asked for"
    if analysis.directions is None:
        unavailable["directions_file"] = "not asked for"
    return report.JacNorm(
        converged=result.converged,
        num_examples=len(_lead(result)),
        output_dim=result.output_dim,
        input_dim=result.input_dim,
        frobenius=_distribution(result.frobenius),
        spectral=_distribution(result.spectral),
        frobenius_max_stderr=largest(result.frobenius_stderr),
        spectral_max_error=largest(result.spectral_error),
        linf_lower=_distribution(result.linf_lower),
        linf_upper=_distribution(result.linf_upper),
        per_class=None if labels is None else _by_class(result, labels, f"--norm {analysis.norm}"),
        directions_file=analysis.directions,
        top=[
            report.TopExample(
                index=i,
                frobenius=at(result.frobenius, i),
                spectral=at(result.spectral, i),
                image=images[i][0] if i in images else None,
                direction=images[i][1] if i in images else None,
                unavailable={
                    n: f"--norm {analysis.norm}" for n in ("frobenius", "spectral") if getattr(result, n) is None
                },
            )
            for i in result.top
        ],
        exact=result.exact,
        top_exact=result.top_exact,
        by_embeddings=by_embeddings,
        per_example_file=analysis.per_example,
        cost=cost_record(result.cost, peak),
        unavailable=unavailable,
    )


def _distribution(values: np.ndarray | None) -> report.Summary | None:
    if values is None:
        return None
    return report.Summary(
        mean=float(values.mean()),
        std=float(values.std()),
        min=float(values.min()),
        median=float(np.median(values)),
        p95=float(np.percentile(values, 95)),
        max=float(values.max()),
        histogram=_histogram(values),
    )


def _histogram(values: np.ndarray) -> report.Histogram:
    """NumPy's `auto` bins, but no more than a picture shows."""
    width = len(np.histogram_bin_edges(values, "auto")) - 1
    counts, edges = np.histogram(values, bins=min(max(width, 1), _MAX_BINS))
    return report.Histogram(edges=edges.tolist(), counts=counts.tolist())


def _write_examples(path: Path, result: JacobianNormsResult) -> None:
    """Every example's norms as .csv or .npz."""
    columns = {
        name: values
        for name in ("frobenius", "frobenius_stderr", "spectral", "spectral_error", "linf_lower", "linf_upper")
        if (values := getattr(result, name)) is not None
    }
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
