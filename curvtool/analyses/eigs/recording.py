"""From eigenvalues to their record."""

from __future__ import annotations

import math

from curvtool.analyses.eigs import record
from curvtool.analyses.eigs.settings import Settings
from curvtool.estimators.eigenpairs import Eigenvalue, EigenvaluesResult
from curvtool.operators.memory import peak_bytes
from curvtool.session.records import cost_record
from curvtool.session.stage import Stage


def eigs_record(
    stage: Stage,
    analysis: Settings,
    result: EigenvaluesResult,
    layers: dict[str, record.LayerEigenvalue] | None,
    lr: float | None,
) -> record.Eigs:
    """The record, with the errors as the search made them."""
    unavailable = {}
    if layers is None:
        unavailable["per_layer"] = "not asked for"
    if result.check_discrepancy is None:
        full, each = result.num_missed is not None, result.cost.check_hvps > 1
        made = "a full check was made" if full else "a product with every pair was made" if each else None
        unavailable["check_discrepancy"] = made or "no closing product was made"
    if result.certificate is None:
        unavailable["certificate"] = (
            "no random start was made (--check none, power iteration), or its vectors were rounded"
        )
    if result.num_missed is None:
        unavailable["num_missed"] = f"--check {analysis.check}"
    if analysis.vectors is None:
        unavailable["vectors_file"] = "not asked for"
    pairs = [eigenvalue_record(pair) for pair in result.eigenvalues]
    stability = stability_of(lr, result.which, pairs)
    if stability is None:
        unavailable["stability"] = "no --lr" if analysis.lr is None else "needs the largest eigenvalue"
    return record.Eigs.of(
        result,
        analysis,
        eigenvalues=pairs,
        certificate=certificate_record(result),
        stability=stability,
        vectors_file=analysis.vectors,
        per_layer=layers,
        history=[(n, value, error if math.isfinite(error) else None) for n, value, error in result.history],
        cost=cost_record(result.cost, peak_bytes(stage.problem.device)),
        unavailable=unavailable,
    )


def certificate_record(result: EigenvaluesResult) -> record.Certificate | None:
    """The limits beyond which nothing was missed; None where nothing can be said."""
    made = result.certificate
    if made is None or (made.above is None and made.below is None):
        return None
    unavailable = {}
    for name, end in (("above", "largest"), ("below", "smallest")):
        if getattr(made, name) is None:
            unavailable[name] = f"the {end} were not looked for"
    return record.Certificate(
        above=made.above, below=made.below, probability=1 - made.failure, check_hvps=made.check_hvps,
        unavailable=unavailable,
    )  # fmt: skip


def stability_of(lr: float | None, which: str, pairs: list[record.Eigenvalue]) -> record.Stability | None:
    """lambda_max times the learning rate: gradient descent on the quadratic model is stable below 2."""
    if lr is None or which not in {"la", "be"} or not pairs:  # of the largest magnitudes none need be the largest
        return None
    top = max(pairs, key=lambda pair: pair.value)
    return record.Stability(lr=lr, sharpness_times_lr=top.value * lr, error=top.error_bound * lr)


def eigenvalue_record(pair: Eigenvalue) -> record.Eigenvalue:
    """One eigenvalue, its errors as the search made them."""
    unavailable: dict[str, str] = {}
    over = pair.over_data
    if over is None:
        missing = (
            "the data were not told apart into four parts: fewer than 16 samples, several ranks, or power iteration"
        )
        unavailable |= dict.fromkeys(("data_stderr", "data_bias", "population"), missing)
    elif over.population is None:
        unavailable |= dict.fromkeys(
            ["population", *([] if over.bias is not None else ["data_bias"])], str(over.reason)
        )
    known = None if over is None else over.population
    if pair.vector_error is None:
        unavailable["vector_error"] = "no gap to the rest of the spectrum was seen"
    return record.Eigenvalue.of(
        pair,
        data_bias=None if over is None else over.bias,
        population=None if known is None else record.PopulationValue.of(known),
        unavailable=unavailable,
    )
