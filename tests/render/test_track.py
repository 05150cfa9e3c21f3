"""The rows of a training run: tables, verdicts and the line 2 / learning rate."""

import io

import pytest
from rich.console import Console

from curvtool.render.track import charts, print_rows, table, verdict


def with_lr(row, lr, step, run="runs/a"):
    eigs = row.analyses[0]
    top = eigs.eigenvalues[0]
    stability = eigs.stability.model_copy(
        update={"lr": lr, "sharpness_times_lr": lr * top.value, "error": lr * top.error_bound}
    )
    analyses = [eigs.model_copy(update={"stability": stability}), *row.analyses[1:]]
    return row.model_copy(update={"analyses": analyses, "step": step, "run": run})


def test_the_line_follows_a_schedule(rows):
    row = rows[0]
    (edge,) = [s for s in charts([with_lr(row, 0.5, 1), with_lr(row, 0.25, 2)])[0].series if s.name.startswith("2 /")]
    assert list(edge.x) == [1, 2] and list(edge.y) == [4, 8]
    (edge,) = [s for s in charts([with_lr(row, 0.5, 1), with_lr(row, 0.5, 2)])[0].series if s.name.startswith("2 /")]
    assert edge.name == "2 / learning rate = 4" and list(edge.y) == [4, 4]
    two = charts([with_lr(row, 0.5, 1), with_lr(row, 0.25, 1, "runs/b")])[0].series
    assert {s.name: list(s.y) for s in two if s.name.startswith("2 /")} == {
        "2 / learning rate (a)": [4],
        "2 / learning rate (b)": [8],
    }


def test_the_verdict_counts_what_is_above(rows):
    top = rows[0].analyses[0].eigenvalues[0].value
    (told,) = verdict([with_lr(rows[0], 2.1 / top, 1), with_lr(rows[0], 1.9 / top, 2)])
    assert "above 2 / learning rate at 1 of 2 checkpoints" in told
    assert (
        "learning rate"
        not in verdict([with_lr(rows[0], 1.0, 1).model_copy(update={"analyses": rows[0].analyses[1:]})])[0]
    )


def test_other_analyses_over_training(whole, rows):
    all_rows = [row.model_copy(update={"analyses": whole.analyses}) for row in rows]
    titles = [chart.title for chart in charts(all_rows)]
    assert len(titles) == 5 and all("over training" in title for title in titles)
    header, cells = table(all_rows)
    assert {len(row) for row in cells} == {len(header)} and "learning_rate" in header


@pytest.mark.parametrize("width", [62, 80, 200])
def test_a_narrow_terminal_leaves_out_what_matters_least(whole, rows, width):
    file = io.StringIO()
    print_rows(rows, Console(file=file, width=width))
    text = file.getvalue()
    assert ("start" in text.split("left out")[0]) == (width == 200)
    assert "lambda_max" in text and max(map(len, text.splitlines())) <= width


def test_a_table_of_very_many_rows_shows_both_ends(rows):
    many = [rows[0].model_copy(update={"step": 1_000_000 + number}) for number in range(2000)]
    file = io.StringIO()
    print_rows(many, Console(file=file, width=100))
    text = file.getvalue()
    assert "1,600 rows between them are not shown: -o FILE.csv has all" in text
    assert "1000000" in text and "1001999" in text and "1000200" not in text
    assert len(table(many)[1]) == 2000
