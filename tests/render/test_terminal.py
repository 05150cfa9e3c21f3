"""What a terminal shows: narrow, wide, in ASCII."""

import io
import json
import re

import pytest
from rich.console import Console

from curvtool.render.comparison import show
from curvtool.render.details import print_details
from curvtool.render.numbers import number, with_error
from curvtool.render.table_parts import filled_table, print_tables
from curvtool.render.terminal import print_report
from curvtool.render.track import print_rows
from curvtool.report.comparison import compare
from curvtool.report.model import Report


def shown(render, width, encoding="utf-8"):
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=file, width=width, highlight=False)
    render(console)
    file.flush()
    return file.buffer.getvalue().decode(encoding)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("width", [80, 120, 200])
def test_everything_fits_and_nothing_is_cut(whole, rows, width, encoding):
    for render in (lambda c: print_report(whole, c), lambda c: print_rows(rows, c), lambda c: print_details(whole, c)):
        text = shown(render, width, encoding)
        assert max(map(len, text.splitlines())) <= width
        assert "…" not in text


@pytest.mark.parametrize("names", [("a", "b"), ("a", "b", "c"), ("a_run_of_many_letters", "and_another_one_as_long")])
@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_a_comparison_breaks_no_number(whole, width, names):
    """Values of ten digits, errors and shares, whatever the form that has room."""
    content = json.loads(whole.model_dump_json())
    for analysis in content["analyses"]:
        for pair in analysis.get("eigenvalues", []) if analysis["kind"] == "eigs" else []:
            pair.update(value=-pair["value"] * 1.23456789e-4, error_bound=1e-9 * abs(pair["value"]))
    comparison = compare([whole, *[Report.model_validate(content)] * (len(names) - 1)], names)
    text = shown(lambda c: show(comparison, c), width)
    assert max(map(len, text.splitlines())) <= width
    words = text.split()
    for quantity in comparison.quantities:
        for value in quantity.values:
            told = with_error(value.value, max(value.high - value.value, value.value - value.low))
            assert value.share is not None or told in words
        for difference in quantity.differences:
            told = number(difference.difference, 3)
            assert any(word.lstrip("+") == told for word in words) or len(names) > 2
            assert difference.p_data is None or any(word.strip(";,") == number(difference.p_data, 2) for word in words)


def test_points_below_each_other():
    values = ["11.749", "0.00340", "-3", "8.9e-04"]
    columns = {"layer": ["a", "b", "c", "d"], "value": values, "n": ["-", "1,000", "2", "3"]}
    lines = shown(lambda c: c.print(filled_table("t", columns, c, text="layer")), 80).splitlines()
    rows = [line for line in lines if re.match(r"\s+[abcd]\s", line)]
    assert len({row.index(".") for row in rows if "." in row}) == 1
    assert rows[2].index("3") + 1 == rows[0].index(".")
    assert all(row.rstrip().endswith(cell) for row, cell in zip(rows, columns["n"], strict=True))


def test_tables_stand_beside_each_other_where_there_is_room():
    def render(console):
        print_tables([filled_table(name, {"x": ["1"]}, console) for name in ("one", "two")], console)

    def titles(width):
        return [line.split() for line in shown(render, width).splitlines() if "one" in line or "two" in line]

    assert titles(200) == [["one", "two"]] and titles(80) == [["one"], ["two"]]


def test_words_in_markup_are_words(whole):
    table = {"layer": ["[bold]x"], "value": ["1 [red]"]}
    assert "[bold]x" in shown(lambda c: c.print(filled_table("t", table, c, text="layer")), 80)


def test_layers_of_words(run):
    words = ["eigs", "--num-samples", "40", "-k", "1"]
    quiet, usual, more, most = (run(*words, *flags)[2] for flags in (["-q"], [], ["-v"], ["-vv"]))
    assert quiet == ""
    assert "demo:digits" in usual and "preflight" not in usual
    assert "num_samples = 40" in more and "preflight: symmetry" in more and "worst relative error" not in more
    assert "worst relative error" in most


def test_no_number_is_cut_off_in_a_narrow_terminal(whole):
    text = " ".join(shown(lambda c: print_report(whole, c), 40).split())
    assert "\u2026" not in text
    for pair in whole.analyses[0].eigenvalues:
        assert with_error(pair.value, pair.error_bound) in text


def test_a_log_without_a_terminal_hears_now_and_then_how_far_it_is(monkeypatch):
    from curvtool.cli import progress

    file = io.StringIO()
    observer = progress.TerminalObserver(Console(file=file, width=100), quiet=False, verbose=0)
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    observer = progress.TerminalObserver(observer.console, quiet=False, verbose=0)
    observer.begin("eigenvalues")
    for step in range(1, 11):
        now = 10.0 * step
        observer.advance(step, f"lambda {step}", 10 - step)
    assert file.getvalue().splitlines() == [f"eigenvalues: lambda {n}, {10 - n}0% left" for n in (4, 8)]
