"""Comparing reports: what differs, by which errors, and what is refused."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from curvtool.config.resolve import resolve_all
from curvtool.errors import UsageError
from curvtool.report.comparison import compare
from curvtool.report.model import Report
from curvtool.report.read import short_names
from curvtool.session.run import run_all

RUNS = """\
[model]
checkpoint = "demo:digits"
[data]
num_samples = 60
[compute]
device = "cpu"
operations = "torch"
hvp = "fresh"
[[analysis]]
kind = "eigs"
k = 2
[[analysis]]
kind = "trace"
rtol = 0.2
per_layer = true
[[analysis]]
kind = "jacnorm"
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    file = tmp_path_factory.mktemp("runs") / "runs.toml"
    file.write_text(RUNS)
    return run_all(resolve_all({}, config_file=str(file), environment={})).report


def changed(report, change):
    """The report with something else in its JSON."""
    content = json.loads(report.model_dump_json())
    change(content)
    return Report.model_validate(content)


def named(comparison, name, analysis=None):
    return next(q for q in comparison.quantities if q.name == name and analysis in (None, q.analysis))


def test_a_report_beside_itself(made):
    found = compare([made, made], ["a", "b"])
    assert found.settings == {} and found.not_compared == [] and found.same_data
    assert len(found.quantities) == 2 + 2 + 1 + 5 + 4
    for quantity in found.quantities:
        (difference,) = quantity.differences
        assert difference.difference == 0 and not difference.exceeds
        assert difference.p_value in (None, 1.0)


def test_bounds_that_do_not_meet(made):
    pair = made.analyses[0].eigenvalues[0]
    for times, exceeds in ((1.9, False), (2.1, True)):

        def change(content, times=times):
            content["analyses"][0]["eigenvalues"][0]["value"] += times * pair.error_bound

        (difference,) = named(compare([made, changed(made, change)], "ab"), "eigenvalue 1").differences
        assert difference.exceeds == exceeds and difference.p_value is None
        degrees = 2 * pair.population.degrees  # of both together, which are as large
        beyond = max(times - 2, 0.0) * pair.error_bound  # both bounds are the computation's, whatever the data
        wanted = 2 * stats.t.sf(beyond / math.hypot(pair.data_stderr, pair.data_stderr), degrees)
        assert difference.p_data == pytest.approx(wanted)


def test_over_few_parts_of_the_data_a_difference_says_less(made):
    """Without degrees in the record the fewest with which a standard error is stated."""

    def p_data(degrees):
        def facts(content):
            for pair in content["analyses"][0]["eigenvalues"]:
                known = pair["population"]
                pair["population"] = known and degrees and {**known, "degrees": degrees}

        def moved(content):
            facts(content)
            pair = made.analyses[0].eigenvalues[0]
            content["analyses"][0]["eigenvalues"][0]["value"] += 3 * pair.data_stderr + 2 * pair.error_bound

        found = compare([changed(made, facts), changed(made, moved)], "ab")
        return named(found, "eigenvalue 1").differences[0].p_data

    assert p_data(None) == p_data(3) == pytest.approx(2 * stats.t.sf(3 / math.sqrt(2), 6))
    assert p_data(3) > p_data(40) == pytest.approx(2 * stats.t.sf(3 / math.sqrt(2), 80))


def of_list(made, values, which="la", limits=(None, None), error=0.01):
    """The report with another list of eigenvalues."""

    def change(content):
        eigs = content["analyses"][0]
        pair = {**eigs["eigenvalues"][0], "error_bound": error}
        eigs["eigenvalues"] = [{**pair, "value": value} for value in values]
        eigs.update(which=which, rtol=0.01)
        above, below = limits
        known = {"above": above, "below": below, "probability": 0.999, "check_hvps": 3}
        eigs["certificate"] = None if above is None and below is None else known

    return changed(made, change)


LISTS = [  # which, the limits of both, the lists, what is said of each rank
    ("la", 1.0, [9, 6, 5, 3], [9, 6, 5, 3.1], "   !"),
    ("la", 7.0, [9, 6, 5, 3], [9, 6, 3, 2], "  ??"),  # one lacks the third
    ("la", 4.0, [9, 6, 5, 3], [9, 6, 3, 2], "  !?"),
    ("la", None, [9, 6, 5, 3], [9, 6, 3, 2], "  ??"),
    ("la", None, [9, 6, 3], [9.1, 6.1, 3.1], "!!?"),
    ("la", None, [9, 6, 3], [9.08, 6.05, 3], "?? "),  # closer than the tolerance
    ("la", 9.04, [9, 6, 3], [9.08, 6.05, 3], "!! "),
    ("la", 7.0, [9, 6, 5, 3], [9.1, 6.1, 5.1, 3.1], "!!!?"),
    ("la", 7.0, [9, 6, 5, 3], [9, 6, 4, 3], "  ! "),  # where is 5?
    ("la", 9.5, [9], [8], "?"),
    ("la", 8.5, [9], [8], "!"),
    ("sa", 7.0, [9, 6, 5, 3], [9, 6, 3, 2], "  ??"),
    ("lm", 7.0, [9, -6, 5, 3], [9, -6, 3, 2], "  ??"),
    ("lm", 7.0, [9, 6, -5.999, 3], [9, 6, -5.999, 3], "    "),
    ("lm", 1.0, [9, 6, -5.9, 3], [9, -6.2, 5.9, 3], " !! "),
    ("lm", 1.0, [9, 6, -5.999, 3], [9, -5.999, 6, 3], " ?? "),  # the order of equal magnitudes
    ("be", 7.0, [9, 6, -6, -9], [9, 5.5, -6, -9], " ?  "),
]


@pytest.mark.parametrize(("which", "limit", "first", "other", "told"), LISTS)
def test_an_eigenvalue_that_a_list_may_lack_makes_no_difference(made, which, limit, first, other, told):
    sign = -1 if which == "sa" else 1
    limits = (None, None) if limit is None else (None if sign < 0 else limit, None if which == "la" else -limit)
    reports = [of_list(made, [sign * v for v in values], which, limits) for values in (first, other)]
    for pair in (reports, reports[::-1]):
        found = [q for q in compare(pair, "ab").quantities if q.name.startswith("eigenvalue")]
        said = ["!" if d.exceeds else "?" if d.missed else " " for q in found for d in q.differences]
        assert "".join(said) == told.replace(".", " ")


def test_a_layer_by_its_own_certificate(made):
    def with_layer(value, certificate, made=made):
        layer = {
            "value": value, "error_bound": 0.01, "bound_kind": "linear", "num_params": 9, "num_hvps": 3,
            "converged": True, "certificate": certificate,
        }  # fmt: skip
        return changed(made, lambda c: c["analyses"][0].update(per_layer={"0": layer}))

    for above, exceeds in ((9.5, False), (8.5, True), (None, True)):  # a tenth is more than the tolerance
        known = above and {"above": above, "below": None, "probability": 0.999, "check_hvps": 3}
        found = compare([with_layer(9, known), with_layer(8, known)], "ab")
        (difference,) = named(found, "layer 0", "eigs hessian la").differences
        assert (difference.exceeds, difference.missed) == (exceeds, not exceeds)
    # nor is a layer's value one of the whole matrix's list
    reports = [with_layer(4, None, of_list(made, values, "la", (7, None))) for values in ([9, 6, 5, 3], [9, 6, 4, 3])]
    assert named(compare(reports, "ab"), "eigenvalue 3").differences[0].exceeds


def test_estimates_by_probes_are_tested(made):
    trace = made.analyses[1]

    def change(content):
        content["analyses"][1]["value"] += 5 * trace.stderr

    found = compare([made, changed(made, change)], "ab")
    (difference,) = named(found, "trace", "trace hessian").differences
    degrees = trace.degrees_of_freedom or trace.num_passes - 1
    fixed = 2 * (trace.arithmetic_error or 1e-7 * trace.value)  # of both sides
    wanted = 2 * stats.t.sf((5 * trace.stderr - fixed) / (math.sqrt(2) * trace.stderr), 2 * degrees)
    assert difference.p_value == pytest.approx(wanted, rel=1e-3)
    assert difference.p_adjusted == pytest.approx(6 * difference.p_value) and difference.exceeds
    others = [q.differences[0] for q in found.quantities if q.name.startswith("layer")]
    assert all(d.p_adjusted == 1.0 and not d.exceeds for d in others)


def test_records_hold_degrees_of_freedom_and_rounding(made):
    trace = made.analyses[1]
    for block in (trace, *trace.per_layer.values(), *trace.per_parameter.values()):
        assert block.degrees_of_freedom >= 1 and 0 < block.arithmetic_error < block.stderr
        assert "degrees_of_freedom" not in block.unavailable
    half = (trace.ci95[1] - trace.ci95[0]) / 2
    least = stats.t.isf(0.025, trace.degrees_of_freedom) * trace.stderr + trace.arithmetic_error
    assert half >= least * (1 - 1e-6)  # the looks widen it


def test_few_degrees_of_freedom_and_rounding_make_a_difference_smaller(made):
    """The same numbers and standard errors."""

    def p_value(**facts):
        def change(content):
            content["analyses"][1].update(facts)

        def moved(content):
            change(content)
            content["analyses"][1]["value"] += 5 * made.analyses[1].stderr

        found = compare([changed(made, change), changed(made, moved)], "ab")
        return named(found, "trace", "trace hessian").differences[0].p_value

    stderr = made.analyses[1].stderr
    many = p_value(degrees_of_freedom=1000.0, arithmetic_error=0.0)
    assert many < p_value(degrees_of_freedom=4.0, arithmetic_error=0.0) < 0.05
    assert many < p_value(degrees_of_freedom=1000.0, arithmetic_error=stderr) < 0.05
    assert p_value(degrees_of_freedom=1000.0, arithmetic_error=2.5 * stderr) == pytest.approx(1.0)


def test_a_report_without_degrees_of_freedom_has_the_fewest(made):
    def change(content):
        content["analyses"][1].update(degrees_of_freedom=None, arithmetic_error=None)

    value = named(compare([changed(made, change)] * 2, "ab"), "trace", "trace hessian").values[0]
    assert value.degrees_of_freedom == made.analyses[1].num_passes - 1


def test_one_in_twenty_comparisons_of_the_same_finds_a_difference(made):
    """Values drawn anew around the same truth: the level holds for all tests of a comparison together."""
    rng, found = np.random.default_rng(0), 0
    trace = made.analyses[1]

    def change(content):
        blocks = [content["analyses"][1], *content["analyses"][1]["per_layer"].values()]
        for block in blocks:
            block["value"] = float(rng.normal(7.0, block["stderr"]))

    assert trace.stderr > 0
    for _ in range(300):
        both = compare([changed(made, change), changed(made, change)], "ab")
        found += any(q.differences[0].exceeds for q in both.quantities if q.analysis == "trace hessian")
    assert 0.015 <= found / 300 <= 0.085


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["problem"].update(reduction="sum"),
        lambda c: c["problem"].update(loss="mse"),
        lambda c: c["provenance"].update(parameters_include=["0.*"]),
    ],
)
def test_another_quantity_is_refused(made, change):
    with pytest.raises(UsageError, match="CT072"):
        compare([made, changed(made, change)], "ab")
    found = compare([made, changed(made, change), made], "abc")
    assert len(found.not_compared) == 1 and "b: " in found.not_compared[0]
    assert all(q.differences[0] is None and q.differences[1] is not None for q in found.quantities)


def test_other_matrices_are_not_compared(made):
    other = changed(made, lambda c: c["analyses"][0].update(operator="ggn"))
    found = compare([made, other], "ab")
    assert {q.analysis for q in found.quantities} == {"problem", "trace hessian", "jacnorm"}
    assert sorted(found.not_compared) == ["eigs ggn la: in b alone", "eigs hessian la: in a alone"]


def test_numbers_of_one_report_alone_are_told(made):
    found = compare([made, changed(made, lambda c: c["analyses"][0]["eigenvalues"].pop())], "ab")
    assert found.not_compared == ["eigs hessian la, eigenvalue 2: in a alone"]
    assert "eigenvalue 2" not in {q.name for q in found.quantities}


def test_settings_that_differ(made):
    def change(content):
        content["provenance"]["data_fingerprint"] = "f" * 64
        content["provenance"]["config"]["compute"]["seed"] = 9

    found = compare([made, changed(made, change)], "ab")
    assert set(found.settings) == {"data (sha256)", "compute.seed"} and not found.same_data


def test_names(tmp_path):
    paths = [tmp_path / "a" / "r.json", tmp_path / "b" / "r.json"]
    assert short_names(paths) == ["a/r", "b/r"]
    assert short_names([tmp_path / "x.json", tmp_path / "y.json"]) == ["x", "y"]
    assert len(set(short_names([paths[0], paths[0]]))) == 2


@pytest.mark.parametrize("format", ["html", "png", "csv", "md", "json", None])
def test_by_command(run, made, tmp_path, format):
    for name in "ab":
        (tmp_path / f"{name}.json").write_text(made.model_dump_json())
    words = [] if format is None else ["-o", tmp_path / f"c.{format}"]
    status, out, err = run("compare", tmp_path / "a.json", tmp_path / "b.json", *words)
    assert status == 0, err
    if format is None:
        assert "0 of 14 numbers differ" in out and "eigenvalue 1" in out
    else:
        assert (tmp_path / f"c.{format}").stat().st_size > 200


def test_a_report_alone(run, made, tmp_path):
    (tmp_path / "a.json").write_text(made.model_dump_json())
    status, _, err = run("compare", tmp_path / "a.json")
    assert status == 2 and "CT072" in err


def test_shares_below_thresholds_that_differ_are_not_the_same_event(tmp_path):
    """float32 counts as below zero what lies beyond its noise, float64 nearly all: neither is wrong."""
    file = tmp_path / "density.toml"
    density = 'kind = "density"\nprobes = 2\nsteps = 8\noutliers = 0'
    file.write_text(RUNS[: RUNS.index("[[analysis]]")] + f"[[analysis]]\n{density}\n")
    made = run_all(resolve_all({}, config_file=str(file), environment={})).report
    for times, is_same in ((1.0, True), (1.9, True), (0.6, True), (2.1, False), (1e-6, False)):

        def change(content, times=times):
            content["analyses"][0]["threshold"] *= times

        found = compare([made, changed(made, change)], ["a", "b"])
        names = {quantity.name for quantity in found.quantities}
        assert ("share below zero by more than rounding" in names) == is_same
        assert any("starts at" in text for text in found.not_compared) != is_same
        assert {"trace", "loss"} <= names
