"""The `density` analysis: from its settings to its record."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from curvtool.analyses.density.record import Density, Outlier
from curvtool.analyses.density.settings import Settings
from curvtool.analyses.eigs.record import Eigs
from curvtool.analyses.eigs.recording import eigs_record
from curvtool.analyses.eigs.settings import Settings as EigsSettings
from curvtool.errors import STOPPING, cause_of
from curvtool.estimators.accuracy.noise import noise_of
from curvtool.estimators.cost import Cost, Meter
from curvtool.estimators.density import density, is_small
from curvtool.estimators.density_result import DensityResult, Spectrum
from curvtool.estimators.eigenpairs import EigenvaluesResult
from curvtool.estimators.eigenvalues import eigenvalues
from curvtool.estimators.trace import TraceResult, trace
from curvtool.operators.curvature import CurvatureOperator
from curvtool.operators.memory import peak_bytes
from curvtool.report.share import Share
from curvtool.session.common_warnings import add_common_warnings
from curvtool.session.records import cost_record
from curvtool.session.stage import Stage
from curvtool.words import counted

_TRACE_RTOL = 0.05  # of the trace that the density's own is compared with
_TRACE_PASSES = 40  # for it, or half of the density's own products where those are more
_CURVES = (
    "grid", "density", "density_low", "density_high", "density_stderr", "cumulative", "cumulative_low",
    "cumulative_high",
)  # fmt: skip
_DOUBT = 1e-3  # chance of a warning where nothing is wrong


def _is_exact(stage: Stage, analysis: Settings, operator: CurvatureOperator) -> bool:
    """Whether all eigenvalues are computed: asked for, or hardly dearer and within the memory."""
    if analysis.method == "auto":
        return is_small(operator.space, analysis.probes, analysis.steps, stage.budget // 2)
    return analysis.method == "exact"


@dataclass(frozen=True)
class _Outliers:
    """Eigenvalues and vectors to place exactly."""

    values: tuple[float, ...] = ()
    errors: tuple[float, ...] = ()
    vectors: torch.Tensor | None = None


def run(stage: Stage, analysis: Settings) -> Density | Eigs:
    """The density of the chosen matrix, its outliers first, and the trace to compare with last.

    Stopped while it looks for the outliers, or before there is a density, it returns those found so far.
    """
    given = None if analysis.deflate is None else stage.deflation_vectors(analysis.deflate)
    operator = stage.checked_operator(analysis.operator)
    meter, known = Meter(operator), stage.shared.pairs.get(analysis.operator)
    exact = stage.observer.ledger.remembered("whole matrix", None, lambda: _is_exact(stage, analysis, operator))
    search: EigenvaluesResult | None = None
    if exact:
        outliers = _Outliers()
    elif given is None and known is not None and len(known.values) >= analysis.outliers:
        outliers = _Outliers(known.values, known.errors, known.vectors)
    elif given is not None:
        outliers = _given(operator, operator.space.part(given))
    else:
        search = _search(stage, analysis, operator)
        if stage.stopped is not None and search is not None:
            return _alone(stage, analysis, operator, search)
        outliers = _kept(search)
    try:
        result = stage.estimate(
            "density",
            operator,
            lambda: density(
                operator,
                num_probes=analysis.probes,
                num_steps=analysis.steps,
                method="exact" if exact else "probes",
                outliers=outliers.values,
                outlier_vectors=outliers.vectors,
                width=analysis.width,
                near=analysis.near,
                noise=stage.noise,
                memory_budget=stage.budget // 2,
                seed=stage.config.compute.seed,
                observer=stage.observer,
            ),
        )
    except STOPPING as error:
        stop = cause_of(error)
        if search is None:
            raise
        stage.stopped = stop
        return _alone(stage, analysis, operator, search)
    asked = min(analysis.steps, operator.space.dim - len(outliers.values))
    if not exact and stage.stopped is None and result.num_steps < asked:
        stage.warn(
            "CT209",
            f"{counted(result.num_steps, 'step')} instead of {analysis.steps}: the memory budget holds no more "
            "(a larger --memory-budget, or fewer parameters by --params)",
        )
    add_common_warnings(stage, operator, not any(q.nodes.any() for q in result.quadratures), 1.0)
    compared = None if exact else _compare(stage, result, operator, outliers)
    return _record(stage, analysis, result, outliers, compared, meter.cost())


def _alone(stage: Stage, analysis: Settings, operator: CurvatureOperator, search: EigenvaluesResult) -> Eigs:
    """The outliers, where nothing else was reached."""
    add_common_warnings(stage, operator, False, 1.0)
    return eigs_record(stage, EigsSettings(operator=analysis.operator), search, None, None)


def _search(stage: Stage, analysis: Settings, operator: CurvatureOperator) -> EigenvaluesResult | None:
    """The eigenvalues largest in magnitude; None where none are wanted."""
    number = min(analysis.outliers, operator.space.dim - 2)
    if number < 1:
        return None
    return stage.estimate(
        "outliers",
        operator,
        lambda: eigenvalues(
            operator,
            number,
            which="lm",
            memory_budget=stage.budget // 2,
            seed=stage.config.compute.seed,
            noise=stage.noise,
            observer=stage.observer,
        ),
    )


def _kept(search: EigenvaluesResult | None) -> _Outliers:
    """Those to place exactly; the ones that the search was not through with stay with the rest."""
    if search is None:
        return _Outliers()
    kept = [i for i, pair in enumerate(search.eigenvalues) if pair.settled and pair.value]
    pairs = [search.eigenvalues[i] for i in kept]
    return _Outliers(
        tuple(pair.value for pair in pairs),
        tuple(pair.error_bound for pair in pairs),
        search.vectors[kept],
    )


def _given(operator: CurvatureOperator, vectors: torch.Tensor) -> _Outliers:
    """Rayleigh quotients of the given vectors, made orthonormal, with their true residuals."""
    space = operator.space
    rows = space.orthonormal(vectors)
    values, errors = [], []
    for row in rows:
        image = operator.matvec(row)
        value = space.inner(row, image)
        values.append(float(value))
        errors.append(float(space.norm(image - value * row)))
    return _Outliers(tuple(values), tuple(errors), rows)


def _compare(
    stage: Stage, result: DensityResult, operator: CurvatureOperator, outliers: _Outliers
) -> TraceResult | None:
    """The trace by its own probes; a warning where the density's lies beyond both errors."""
    found: list[TraceResult] = []

    def estimate() -> None:
        operator.execution.release()
        other = trace(
            operator,
            rtol=_TRACE_RTOL,
            max_passes=max(_TRACE_PASSES, result.num_probes * result.num_steps // 2),
            eigenpairs=None if outliers.vectors is None else (outliers.values, outliers.vectors),
            memory_budget=stage.budget // 2,
            seed=stage.config.compute.seed,
            noise=stage.noise,
            observer=stage.observer,
        )
        found.append(other)

    stage.attempt(estimate)
    if not found:
        return None
    other = found[0]
    if other.ci95 is not None:
        spectrum = Spectrum(
            result.quadratures, result.outliers, operator.space.dim, result.num_probes, noise_of(operator, stage.noise)
        )
        low, high = spectrum.trace_interval(_DOUBT)
        half = (other.ci95[1] - other.ci95[0]) / 2
        if not low - 2 * half <= other.value <= high + 2 * half:
            stage.warn(
                "CT210",
                f"the density implies a trace of {result.trace:.5g}, and an independent estimate gives "
                f"{other.value:.5g} +- {half:.2g}: more --probes, or --dtype float64",
            )
    return other


def _record(
    stage: Stage,
    analysis: Settings,
    result: DensityResult,
    outliers: _Outliers,
    compared: TraceResult | None,
    cost: Cost,
) -> Density:
    unavailable: dict[str, str] = {}
    if math.isinf(result.trace_degrees):
        unavailable["trace_degrees"] = "every eigenvalue was computed"
    if compared is None:
        unavailable |= dict.fromkeys(
            ("trace_by_probes", "trace_by_probes_ci95"),
            "every eigenvalue was computed" if result.method == "exact" else "stopped before",
        )
    return Density.of(
        result,
        analysis,
        **{name: getattr(result, name).tolist() for name in _CURVES},
        nodes=[q.nodes.tolist() for q in result.quadratures],
        weights=[q.weights.tolist() for q in result.quadratures],
        outliers=[Outlier(value=v, error_bound=e) for v, e in zip(outliers.values, outliers.errors, strict=True)],
        below_zero=Share.of(result.below_zero),
        near_zero=Share.of(result.near_zero),
        below_near=Share.of(result.below_near),
        trace_degrees=None if math.isinf(result.trace_degrees) else result.trace_degrees,
        trace_by_probes=None if compared is None else compared.value,
        trace_by_probes_ci95=None if compared is None else compared.ci95,
        num_dims=stage.problem.num_trainable,
        cost=cost_record(replace(cost, solver_hvps=cost.num_hvps), peak_bytes(stage.problem.device)),
        unavailable=unavailable,
    )
