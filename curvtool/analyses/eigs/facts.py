"""The numbers of extreme eigenvalues: for comparisons, exports and `track`."""

from __future__ import annotations

from collections.abc import Iterator

from curvtool.analyses.eigs.ranks import rank_of_layer, ranks, ranks_of
from curvtool.analyses.eigs.record import Eigs
from curvtool.report.headline import Headline, Ratio
from curvtool.report.model import Warning
from curvtool.report.numbers import Number, bound, tag_of
from curvtool.report.remedies import kept_by_rounding, rounded_up
from curvtool.words import counted

BAND = "Bands: the estimated error."
_LEAST_PARTS = 4  # of the data: of fewer no standard error over them is stated
_FIRST = {"la": "lambda_max", "sa": "lambda_min", "lm": "lambda_abs_max", "be": "lambda_max"}


def numbers(eigs: Eigs, noise: float) -> Iterator[Number]:
    """Every eigenvalue, and each layer's leading one."""
    label = f"eigs {eigs.operator} {eigs.which}"
    known = [pair.population for pair in eigs.eigenvalues]
    degrees = next((float(each.degrees) for each in known if each is not None), _LEAST_PARTS - 1.0)
    for place, rank, pair in zip(ranks(eigs), ranks_of(eigs), eigs.eigenvalues, strict=True):
        value = bound(pair.value, pair.error_bound, pair.data_stderr, degrees).model_copy(
            update={
                "rank": rank,
                "data_bias": pair.data_bias,
                "population": None if pair.population is None else (pair.population.low, pair.population.high),
            }
        )
        yield Number(label, f"eigenvalue {place}", value, tag_of(eigs.operator, _tag_of_pair(eigs, place)))
    for layer, leading in (eigs.per_layer or {}).items():
        tag = tag_of(eigs.operator, f"layers/{layer}/{_FIRST[eigs.which]}")
        value = bound(leading.value, leading.error_bound)
        yield Number(label, f"layer {layer}", value.model_copy(update={"rank": rank_of_layer(eigs, leading)}), tag)


def _tag_of_pair(eigs: Eigs, place: int) -> str:
    """`lambda_max`, `lambda_2`, … from above, `lambda_min`, `lambda_min_2`, … from below."""
    if place == 1:
        return _FIRST[eigs.which]
    if place == -1:
        return "lambda_min"
    first = "lambda_min" if place < 0 else {"sa": "lambda_min", "lm": "lambda_abs"}.get(eigs.which, "lambda")
    return f"{first}_{abs(place)}"


def words(eigs: Eigs) -> str:
    """The first number."""
    named = {"sa": "Smallest eigenvalue", "lm": "Eigenvalue largest in magnitude"}
    return named.get(eigs.which, "Largest eigenvalue")


def name(eigs: Eigs) -> str:
    """The same as a column's header."""
    return _FIRST[eigs.which]


def headline(eigs: Eigs) -> Headline | None:
    """The first eigenvalue with its estimated error, against the learning rate where that is known."""
    if not eigs.eigenvalues:
        return None
    pair, ratio = eigs.eigenvalues[0], None
    if eigs.stability is not None:
        told = eigs.stability
        ratio = Ratio(
            name="x lr",
            tag="lambda_max_x_lr",
            value=told.sharpness_times_lr,
            error=told.error,
            threshold=told.threshold,
            setting=told.lr,
            edge=told.threshold / told.lr,
            edge_name="2 / learning rate",
        )
    return Headline(pair.value, pair.value - pair.error_bound, pair.value + pair.error_bound, ratio)


def not_converged(eigs: Eigs, dtype: str) -> Warning:
    """Which errors are larger than asked for, why, and what helps."""
    unmet = [pair for pair in eigs.eigenvalues if not pair.converged]
    rounded = [pair for pair in unmet if pair.unmet == "rounding"]
    of_all = counted(len(eigs.eigenvalues), "eigenvalue")
    if rounded and len(rounded) == len(unmet):
        worst = max(pair.error_bound / abs(pair.value) for pair in rounded)  # no 0: for these, rounding is enough
        if worst <= eigs.rtol:  # the values are as accurate as was asked for, and their vectors are not
            remedy = "a larger --vector-rtol" if dtype == "float64" else "--dtype float64, or a larger --vector-rtol"
            told = f"rounding alone keeps the eigenvectors of {len(rounded)} of {of_all} from --vector-rtol: {remedy}"
            return Warning(code="CT201", message=told)
        return kept_by_rounding("CT201", f"the error of {len(rounded)} of {of_all}", eigs.rtol, dtype, worst)
    near_zero = [pair.error_bound for pair in unmet if abs(pair.value) <= pair.error_bound]
    remedy = "--basis device" if eigs.basis == "bfloat16" else "raise --max-passes or --rtol"
    if rounded:
        remedy += f"; {len(rounded)} of them by rounding: "
        remedy += "a larger --rtol" if dtype == "float64" else "--dtype float64, or a larger --rtol"
    if near_zero:  # of a zero no relative error is ever met
        is_one, atol = len(near_zero) == 1, rounded_up(max(near_zero))
        remedy += f"; {len(near_zero)} of them {'is' if is_one else 'are'} 0 to within {'its' if is_one else 'their'} "
        remedy += f"error{'' if is_one else 's'}: --atol {atol} accepts {'it' if is_one else 'them'}"
    return Warning(
        code="CT201",
        message=f"{len(unmet)} of {of_all} did not converge to rtol {eigs.rtol:g} in "
        f"{counted(eigs.cost.solver_hvps, 'product', 'g')}: {remedy}",
    )
