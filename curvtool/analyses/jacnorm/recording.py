"""The record of a `jacnorm` analysis, made from its result."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from curvtool.analyses.jacnorm.record import ClassNorms, Histogram, JacNorm, Summary, TopExample
from curvtool.analyses.jacnorm.settings import Settings
from curvtool.estimators.accuracy.norms import NormSummary
from curvtool.estimators.jacobian_norms import JacobianNormsResult
from curvtool.session.records import cost_record

_ALIKE = 1e-9  # relative; as all Jacobians of a linear model are
_MAX_BINS = 40
_NORMS = ("frobenius", "spectral")


def _by_class(result: JacobianNormsResult, labels: np.ndarray, missing: str) -> dict[str, ClassNorms]:
    found = {}
    own = labels[: len(result.key.first)]
    for label in np.unique(own):
        members = np.flatnonzero(own == label)
        facts: dict[str, float | None] = {}
        bounds: dict[str, tuple[float, float]] = {}
        for norm in _NORMS:
            summary = result.summary(norm, members)
            for name in ("mean", "max"):
                facts[f"{norm}_{name}"] = None if summary is None else summary.values[name]
                if summary is not None:
                    bounds[f"{norm}_{name}"] = summary.bounds[name]
        reasons = {name: missing for name, value in facts.items() if value is None}
        found[str(int(label))] = ClassNorms(num_examples=len(members), **facts, bounds=bounds, unavailable=reasons)
    return found


def jacnorm_record(
    result: JacobianNormsResult,
    analysis: Settings,
    labels: np.ndarray | None,
    peak: int,
    by_embeddings: bool,
    images: Mapping[int, tuple[str, str]],
) -> JacNorm:
    """The record of a `jacnorm` analysis."""

    def largest(values: np.ndarray | None) -> float | None:
        return None if values is None else float(values.max())

    stderr, degrees = result.frobenius_stderr, result.frobenius_degrees
    fewest = None if stderr is None or degrees is None else float(degrees[stderr.argmax()])
    return JacNorm.of(
        result,
        operator="input-jacobian",
        num_examples=len(result.key.first),
        frobenius=_distribution(result.summary("frobenius"), result.frobenius),
        spectral=_distribution(result.summary("spectral"), result.spectral),
        frobenius_max_stderr=largest(result.frobenius_stderr),
        frobenius_max_degrees=fewest,
        spectral_max_error=largest(result.spectral_error),
        linf_lower=_bounds_distribution(result.linf_lower),
        linf_upper=_bounds_distribution(result.linf_upper),
        per_class=None if labels is None else _by_class(result, labels, f"--norm {analysis.norm}"),
        directions_file=analysis.directions,
        top=[_top_example(result, i, images.get(i), f"--norm {analysis.norm}") for i in result.top],
        by_embeddings=by_embeddings,
        per_example_file=analysis.per_example,
        cost=cost_record(result.cost, peak),
        unavailable=_missing(result, analysis, labels),
    )


def _missing(result: JacobianNormsResult, analysis: Settings, labels: np.ndarray | None) -> dict[str, str]:
    """Why a field is null, by its name."""
    unavailable: dict[str, str] = {}
    for norm in _NORMS:
        if getattr(result, norm) is None:
            unavailable[norm] = f"--norm {analysis.norm}"
    if result.frobenius_stderr is None:
        unavailable |= dict.fromkeys(("frobenius_max_stderr", "frobenius_max_degrees"), "no probes took part")
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
    return unavailable


def _top_example(result: JacobianNormsResult, index: int, images: tuple[str, str] | None, missing: str) -> TopExample:
    def at(values: np.ndarray | None) -> float | None:
        return None if values is None else float(values[index])

    def ends(interval: np.ndarray | None) -> tuple[float, float] | None:
        return None if interval is None else (float(interval[0, index]), float(interval[1, index]))

    without = [norm for norm in _NORMS if getattr(result, norm) is None]
    return TopExample(
        index=index,
        frobenius=at(result.frobenius),
        spectral=at(result.spectral),
        frobenius_interval=ends(result.frobenius_interval),
        spectral_interval=ends(result.spectral_interval),
        image=None if images is None else images[0],
        direction=None if images is None else images[1],
        unavailable={name: missing for norm in without for name in (norm, f"{norm}_interval")},
    )


def _distribution(summary: NormSummary | None, values: np.ndarray | None) -> Summary | None:
    if summary is None or values is None:
        return None
    held = summary.values
    return Summary(
        mean=held["mean"],
        std=held["std"],
        min=held["min"],
        median=held["median"],
        p95=held["p95"],
        max=held["max"],
        bounds=summary.bounds,
        mean_stderr_examples=summary.examples_stderr,
        histogram=_histogram(values),
    )


def _bounds_distribution(values: np.ndarray | None) -> Summary | None:
    """The distribution of bounds on a norm: they have no errors of their own."""
    if values is None:
        return None
    return Summary(
        mean=float(values.mean()),
        std=float(values.std()),
        min=float(values.min()),
        median=float(np.median(values)),
        p95=float(np.percentile(values, 95)),
        max=float(values.max()),
        histogram=_histogram(values),
        unavailable={"bounds": "bounds themselves", "mean_stderr_examples": "bounds themselves"},
    )


def _histogram(values: np.ndarray) -> Histogram:
    """NumPy's `auto` bins, but no more than a picture shows; one where the values differ by rounding alone."""
    low, high = float(values.min()), float(values.max())
    if high - low <= _ALIKE * high:
        counts, edges = np.histogram(values, bins=1, range=(low * (1 - _ALIKE), high * (1 + _ALIKE) or 1.0))
    else:
        num = len(np.histogram_bin_edges(values, "auto")) - 1
        counts, edges = np.histogram(values, bins=min(max(num, 1), _MAX_BINS))
    return Histogram(edges=edges.tolist(), counts=counts.tolist())
