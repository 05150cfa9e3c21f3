"""The `eigs` analysis: from its settings to its record."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from functools import partial
from pathlib import Path

import torch

from curvtool.analyses.eigs.record import Eigs, LayerEigenvalue
from curvtool.analyses.eigs.recording import certificate_record, eigenvalue_record, eigs_record, stability_of
from curvtool.analyses.eigs.settings import Settings
from curvtool.config.schema import RunConfig
from curvtool.errors import LoadError
from curvtool.estimators.eigenpairs import EigenvaluesResult
from curvtool.estimators.eigenvalues import eigenvalues
from curvtool.operators.curvature import CurvatureOperator
from curvtool.problem import demo
from curvtool.problem.checkpoints.learning_rate import learning_rate_of
from curvtool.problem.duplicates import copies
from curvtool.problem.vectors import load_vectors, stacked_parts, to_bytes
from curvtool.report.write import check_writable, write_atomic
from curvtool.session.common_warnings import add_common_warnings
from curvtool.session.shared import KnownPairs
from curvtool.session.stage import Stage
from curvtool.words import counted

_ROUNDINGS = 4  # times the noise floor, of a product: more is not rounding alone
_COPIES_TOLD = 1.05  # times the standard error, from which on copied samples are worth a word


def run(stage: Stage, analysis: Settings) -> Eigs:
    """Extreme eigenvalues of the chosen matrix, their vectors and each layer's where asked for."""
    if analysis.vectors is not None:
        stage.cluster.first(lambda: check_writable(Path(str(analysis.vectors))))
    lr = learning_rate(analysis, stage.config.model.checkpoint, stage.config.model.trust)
    start = _load(stage, analysis.start)
    deflated = None if analysis.deflate is None else stage.deflation_vectors(analysis.deflate)
    operator = stage.checked_operator(analysis.operator, keep_gradient=True)
    start = None if start is None else operator.space.part(start)
    if deflated is not None:
        deflated = operator.space.orthonormal(operator.space.part(deflated))
    free = operator.space.dim - (0 if deflated is None else len(deflated))
    k = stage.fitting(analysis.k, free // 2 if analysis.which == "be" else free)
    start, from_gradient = _chosen_start(stage, analysis, start)
    result = stage.estimate(
        "eigenvalues",
        operator,
        lambda: eigenvalues(
            operator,
            k,
            which=analysis.which,
            method=analysis.method,
            rtol=analysis.rtol,
            atol=analysis.atol,
            vector_rtol=analysis.vector_rtol,
            max_passes=analysis.max_passes,
            max_basis=analysis.max_basis,
            block_size=analysis.block_size,
            basis=analysis.basis,
            memory_budget=stage.budget // 2,
            seed=stage.config.compute.seed,
            start=start,
            deflated=deflated,
            check=analysis.check,
            noise=stage.noise,
            independent_start=from_gradient,
            observer=stage.observer,
        ),
    )
    _share(stage, analysis, result)
    add_common_warnings(stage, operator, all(pair.value == 0.0 for pair in result.eigenvalues), analysis.rtol)
    _warn(stage, result, analysis)
    _warn_of_copies(stage, result)
    _warn_of_multiples(stage, result, operator)
    if analysis.vectors is not None:
        stage.attempt(lambda: _write_vectors(Path(str(analysis.vectors)), result, operator, stage))
    layers: dict[str, LayerEigenvalue] = {}
    if analysis.per_layer:
        operator.execution.release()
        begin = time.perf_counter()
        stage.attempt(lambda: _per_layer(stage, analysis, layers))
        seconds = result.cost.seconds + time.perf_counter() - begin
        result = dataclasses.replace(result, cost=dataclasses.replace(result.cost, seconds=seconds))
    return eigs_record(stage, analysis, result, layers if analysis.per_layer else None, lr)


def _chosen_start(stage: Stage, analysis: Settings, given: torch.Tensor | None) -> tuple[torch.Tensor | None, bool]:
    """Vectors to start from: the user's, else those at hand, else the gradient; and whether it is the gradient.

    That leans towards the leading eigenvectors; a random part is mixed in.
    """
    gradient = stage.take_gradient()
    if given is None and analysis.method == "lanczos":
        given = stage.shared.start
    if given is None and gradient is not None and analysis.method == "lanczos" and analysis.block_size == 1:
        return gradient[None], True
    return given, False


def _warn_of_multiples(stage: Stage, result: EigenvaluesResult, operator: CurvatureOperator) -> None:
    zeros = operator.space.dim - operator.rank_bound if result.which in {"sa", "be"} else 0
    if zeros > 1:
        stage.warn(
            "CT214",
            f"at least {zeros:,} of the {operator.space.dim:,} eigenvalues are exactly 0, since the data have "
            f"only {counted(operator.rank_bound, 'row')}; Lanczos lists such a multiple one a few times at most, and "
            "what is listed beside it is not next in rank",
        )
    elif result.closed and result.num_missed is None:
        stage.warn(
            "CT215",
            "the search ran out of new directions: the matrix has multiple eigenvalues, and how often each is listed "
            "says nothing of its multiplicity; --check full looks for those that were missed",
        )


def _share(stage: Stage, analysis: Settings, result: EigenvaluesResult) -> None:
    """The pairs that the search was through with, for the analyses after this one."""
    kept = [i for i, pair in enumerate(result.eigenvalues) if pair.settled and pair.value]
    if kept and analysis.deflate is None:
        pairs = [result.eigenvalues[i] for i in kept]
        values, errors = (tuple(float(getattr(p, name)) for p in pairs) for name in ("value", "error_bound"))
        vectors = result.vectors
        if len(kept) < len(vectors):
            vectors = torch.stack([vectors[i] for i in kept])
        stage.shared.pairs[analysis.operator] = KnownPairs(values, errors, vectors)


def _load(stage: Stage, path: str | None) -> torch.Tensor | None:
    return None if path is None else load_vectors(Path(path), stage.problem.shapes)


def _warn(stage: Stage, result: EigenvaluesResult, analysis: Settings) -> None:
    if result.check_discrepancy is not None and result.eigenvalues:
        scale = max(result.scale, *(abs(e.value) for e in result.eigenvalues))
        rounding = _ROUNDINGS * stage.noise * math.sqrt(len(result.eigenvalues))  # it is of a sum of so many vectors
        if result.check_discrepancy > max(analysis.rtol, rounding) * scale:
            stage.warn(
                "CT206",
                f"the closing product is off by {result.check_discrepancy:.1e}: products do not repeat, or the matrix "
                "is not symmetric; the residuals say so",
            )
    if result.num_missed:
        stage.warn(
            "CT208",
            f"the full check found {counted(result.num_missed, 'pair')} that the first search had missed (a multiple "
            "or clustered eigenvalue, or a search that ended soon: few products, a large --rtol); those among the k "
            "wanted are in the table. --block-size 4 sees up to four at once",
        )


def _warn_of_copies(stage: Stage, result: EigenvaluesResult) -> None:
    """Samples that are copies say less of the population than as many others do."""
    if all(pair.over_data is None for pair in result.eigenvalues):
        return
    found = copies(stage.problem.data)
    if found.factor > _COPIES_TOLD:
        stage.warn(
            "CT250",
            f"{found.num_copies:,} of the {stage.problem.num_samples:,} samples are exact copies of others. The "
            "standard error over the data and the interval for the population suppose independent samples: if these "
            f"were not drawn independently, both are {found.factor:.2g} times too narrow",
        )


def _write_vectors(path: Path, result: EigenvaluesResult, operator: CurvatureOperator, stage: Stage) -> None:
    """The vectors by parameter name, shape (k, *parameter.shape), in the order of the eigenvalues."""
    metadata = {
        "what": f"unit eigenvectors of the {operator.name}, a row each",
        "eigenvalues": json.dumps(result.values),
        "model": stage.loaded.model_name,
    }
    rows = stage.all_coordinates(operator, result.vectors)
    shapes = operator.problem.shapes
    stage.cluster.first(lambda: write_atomic(path, to_bytes(stacked_parts(rows, shapes), metadata)))


def _per_layer(stage: Stage, analysis: Settings, layers: dict[str, LayerEigenvalue]) -> None:
    """The leading eigenvalue of every layer's own block of the matrix, each a search of its own."""
    form = str(stage.modes["operations"])  # the whole model's; the layers' own would be timed again and again
    for name, parameters in stage.problem.layers().items():
        stage.observer.begin(f"layer {name}")
        operator = stage.make_operator(analysis.operator, stage.problem.with_parameters(parameters), form=form)
        find = partial(
            eigenvalues,
            operator,
            1,
            which="sa" if analysis.which == "sa" else "lm" if analysis.which == "lm" else "la",
            rtol=analysis.rtol,
            atol=analysis.atol,
            max_passes=analysis.max_passes,
            memory_budget=stage.budget // 2,
            seed=stage.config.compute.seed,
            noise=stage.noise,
            observer=stage.observer,
        )
        result = stage.observer.ledger.remembered(f"layer {name}", operator, find)
        pair = eigenvalue_record(result.eigenvalues[0])
        layers[name] = LayerEigenvalue.of(
            pair,
            num_params=operator.space.dim,
            num_hvps=result.cost.num_hvps,
            certificate=certificate_record(result),
        )


def learning_rate(analysis: Settings, name: str | None, trust: bool) -> float | None:
    """As given, or the optimizer's in the checkpoint of that name."""
    if analysis.lr != "auto":
        return None if analysis.lr is None else float(analysis.lr)
    if name is None or name == demo.NAME:
        raise LoadError(
            "CT017",
            "the embedded example has no optimizer",
            expected="a training checkpoint for --lr auto",
            received=demo.NAME,
            remedy="--lr 0.1",
        )
    return learning_rate_of(Path(name), trust=trust)


def restated(eigs: Eigs, config: RunConfig, checkpoint: str) -> Eigs:
    """The record against the learning rate that is given now, which takes no product."""
    assert isinstance(config.analysis, Settings)
    lr = learning_rate(config.analysis, checkpoint, config.model.trust)
    stability = stability_of(lr, eigs.which, eigs.eigenvalues)
    told = {name: text for name, text in eigs.unavailable.items() if name != "stability"}
    if stability is None:
        told["stability"] = "no --lr" if lr is None else "needs the largest eigenvalue"
    return eigs.model_copy(update={"stability": stability, "unavailable": told})
