"""Measures how often stated errors hold, and writes the tables of curvtool/docs/truth.md.

    python scripts/make_truth.py                       # hours on two cores
    python scripts/make_truth.py --only norms ranks    # these sections anew; the others stay
    python scripts/make_truth.py --seeds 50            # a first look

The cells are those of tests/statistics/. The file is written anew after every row, so that a run that is stopped leaves
what it had measured.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "statistics")]
import test_comparison_of_densities_and_norms as of_others  # noqa: E402
import test_comparison_of_ranks as of_values  # noqa: E402
import test_comparison_of_runs as of_runs  # noqa: E402
import test_coverage_of_density as densities  # noqa: E402
import test_coverage_of_jacobian_norms as jacobians  # noqa: E402
import test_coverage_of_population as populations  # noqa: E402
import test_coverage_of_traces as traces  # noqa: E402
import test_missed_eigenvalues as ranks  # noqa: E402
import test_near_eigenvalues as beside  # noqa: E402
from pairs_of_runs import measured  # noqa: E402

Row = Sequence[str]

HEAD = """# How often the stated errors hold

Every table is made by `scripts/make_truth.py` from the cells of `tests/statistics/`, in float64, against dense
matrices. A cell has the share of runs whose 95 % interval holds the true value, in percent, and behind it, in brackets,
the median width over that of the exact interval, that of an estimator that knew its own law. `-`: the method
came to the exact value. A share of 300 runs is itself known to 1.3 points (one standard error), one of 100 to 2.2.
"""


def cell(held: float, width: float, passes: float | None = None) -> str:
    """As it stands in a table."""
    inside = "-" if math.isnan(width) else f"{width:.2f}"
    return f"{100 * held:.1f} ({inside})" if passes is None else f"{100 * held:.1f} ({inside}; {passes:.0f})"


def of_traces(seeds: int) -> Iterator[Row]:
    """Traces by every method, of blocks, and diagonals.

    {seeds} seeds a cell (entries: 100), matrices of 64 rows (`tests/statistics/matrices.py`). A run stops itself at
    rtol 0.1, or after 48 products; behind the semicolon the median number of products (a pass over all groups is one).
    The exact interval is a normal one with the estimates' own spread (traces) or with the exact variance (blocks,
    entries). Blocks are three diagonal blocks from the same probes; entries are those of the diagonal, by 6 to 20
    passes.

    Above 99 % are cells that came to the exact value; runs that stopped at an early look, whose interval allows for the
    worst moment to stop (8 or 14 products); two-sided matrices and one of zero trace by XTrace and `auto`, whose
    widening cannot tell that the spread no longer falls; and entries of one group whose rows have two or five entries,
    which most passes get exactly. Wider than 1.5 are XTrace of a two-sided matrix, blocks of one group after eight
    passes, whose pairs have few degrees of freedom, and `auto` where one group dominates: of 48 passes eight are left
    beside its space.
    """
    yield ["matrix", *traces.METHODS, "blocks", "entries"]
    for name, terms in traces.FAMILIES.items():
        row = [cell(*traces.trace_cell(terms, method, seeds)[:3]) for method in traces.METHODS]
        yield [
            name, *row, cell(*traces.block_cell(terms, seeds)), cell(*traces.diagonal_cell(terms, min(seeds, 100))[:2])
        ]  # fmt: skip


def of_densities(seeds: int) -> Iterator[Row]:
    """Shares of the eigenvalues, and the trace, from a density.

    {seeds} seeds a cell. Bounds by the Lanczos steps are added to the probes' law, so that intervals are wider than the
    exact ones, and hold above 99 %, wherever the steps leave more open than the probes: shares of a power law and of a
    semicircle, whose eigenvalues lie close on both sides of the limit; two-sided spectra below zero. The trace from a
    single probe is wider than 1.5 where few eigenvalues make it (power law, two-sided, rank 1): one probe knows its own
    variance badly. Narrower than the exact law are shares of few eigenvalues, for counts are whole.
    """
    yield ["spectrum", "probes", "share below zero", "share near zero", "trace", "points of the distribution"]
    for name, (values, near, steps) in densities.SPECTRA.items():
        for num_probes in (1, 4):
            hits, widths, exact, _ = densities.measured(
                densities.diagonal(values), values, near, steps, num_probes, seeds
            )
            told = [cell(hits[n], widths[n] / exact[n] if exact[n] > 1e-9 else math.nan)
                    for n in ("below_zero", "near_zero", "trace")]  # fmt: skip
            yield [name, str(num_probes), *told, f"{100 * hits['cumulative']:.1f}"]


def of_norms(seeds: int) -> Iterator[Row]:
    """Norms of Jacobians that are estimates.

    {seeds} examples a cell, 150 outputs and 140 inputs, never computed whole. The error of a spectral norm is no
    interval of 95 % but a bound as far as the numerics tell: it should hold nearly always. In brackets: its median,
    relative.
    """
    yield ["singular values", "Frobenius", "Frobenius beside the spectral", "spectral"]
    for kind in jacobians.CELLS:
        held, error, _ = jacobians.spectral_cell(kind, seeds)
        both = [cell(*jacobians.frobenius_cell(kind, norm, seeds)) for norm in ("frobenius", "both")]
        yield [kind, *both, f"{100 * held:.1f} ({error:.0e})"]


def of_populations(seeds: int) -> Iterator[Row]:
    """Intervals for the population's three largest eigenvalues.

    {seeds} samples a cell; of 4 parts of the data, 8, … Student's t alone makes an interval of four parts 1.5 times as
    wide as the exact one. Behind the semicolon the share of runs that stated an interval, in percent: none is stated
    where the sample's bias is larger than its error. Wider than that, and above 99 %, are eigenvalues close to their
    neighbours (the third of the covariance, logistic regression): another sample may exchange them.
    """
    yield ["samples of", "eigenvalue", *(f"{num} parts" for num in populations.PARTS)]
    for name, (make, num) in populations.CASES.items():
        parts, truth = make()
        told = [populations.over_seeds(parts, truth, num, each, seeds) for each in populations.PARTS]
        for rank in range(3):
            yield [name, str(rank + 1), *(cell(t[rank].coverage, t[rank].width, 100 * t[rank].stated) for t in told)]


def of_ranks(seeds: int) -> Iterator[Row]:
    """Eigenvalues by rank.

    Runs over more than sixty spectra and networks, from one to five eigenvalues of either end or of both: how often a
    converged value was off its rank by more than its error and the tolerance, how often a certificate was wrong (1 in
    1,000 is allowed), and the median number of products over those of a run without any check.
    """
    yield ["tolerance", "runs", "missed", "certificates wrong", "products over those without a check"]
    kinds = ranks.spectra()
    for rtol in (1e-3, 1e-2, 1e-1):
        num, missed, wrong, more = 40 * seeds if rtol == 1e-3 else 4 * seeds, 0, 0, []
        for number in range(num):
            _, miss, false, result = ranks.run(kinds, number, rtol, independent_start=True)
            missed, wrong = missed + miss, wrong + false
            if number % 10 == 0:
                bare = ranks.run(kinds, number, rtol, independent_start=True, check="none")[-1]
                more.append(result.cost.num_hvps / (bare.cost.num_hvps + 1))
        yield [f"{rtol:g}", f"{num:,}", str(missed), str(wrong), f"{np.median(more):.3f}"]


def of_neighbours(seeds: int) -> Iterator[Row]:
    """Eigenvalues on or beside each other

    {seeds} seeds a cell: the share of runs, in percent, in which every converged value lies within its stated error of
    the eigenvalue of its rank, and in brackets the mean number of products, for one, two and three values. In all runs
    of the table every value lies within its error of *some* eigenvalue. Of an eigenvalue that stands twice at the edge
    of a bulk, without a gap below it, one copy is usually missed: a search by vectors sees one, and another random
    start would need as many products as the search. The values listed are then eigenvalues, each a rank too far out.
    """
    yield ["spectrum", "tolerance", "k = 1", "k = 2", "k = 3"]
    cases = [(name, values, rtol) for name, values in beside.neighbours().items() for rtol in (0.2, 0.05, 1e-2, 1e-3)]
    for name, values, rtol in cases + [(name, values, 1e-3) for name, values in beside.copies().items()]:
        told = [beside.shares(values, k, rtol, seeds) for k in (1, 2, 3)]
        if any(of_any < 1.0 for _, of_any, _ in told):
            raise AssertionError(f"{name}, tolerance {rtol:g}: a value beside all eigenvalues")
        yield [name, f"{rtol:g}", *(f"{100 * of_rank:.0f} ({products:.0f})" for of_rank, _, products in told)]


def of_comparisons(seeds: int) -> Iterator[Row]:
    """False alarms of `compare`: traces, diagonals and eigenvalues

    {seeds} pairs of runs of one matrix with other seeds, at a level of 5 %, and how often a true difference of three of
    its standard errors was seen (where bounds are larger, of three bounds); both in percent. An exact level of 5 % is
    seen as 2.7 to 7.7 % in 95 of 100 cells of 300 pairs.
    """
    yield ["quantity", "matrix", "false alarms", "true differences seen"]
    for quantity in of_runs.QUANTITIES:
        for kind in of_runs.KINDS:
            for name, told in of_runs.measured_of(quantity, kind, seeds).items():
                label = quantity if name in quantity or name == "sum" else f"{quantity}, {name}"
                yield [label, kind, *percents(told)]


def of_densities_compared(seeds: int) -> Iterator[Row]:
    """False alarms of `compare`: densities and Jacobian norms

    As above. The largest Frobenius norm of examples of which none is computed whole has an interval that holds for all
    of them together, and tells none apart.
    """
    yield ["run", "number", "false alarms", "true differences seen"]
    runs: list[tuple[str, Any]] = [
        (f"density, {name}, {num} probes, {apart} known outliers", partial(of_others.by_density, name, num, apart))
        for name, num, apart in of_others.DENSITIES
    ]
    runs += [
        (f"jacnorm, {model}, {norm}, {top} listed", partial(of_others.by_norms, model, norm, top))
        for model, norm, top in of_others.NORMS
    ]
    for title, run in runs:
        for name, told in measured(run, seeds).items():
            yield [title, name, *percents(told)]


def of_ranks_compared(seeds: int) -> Iterator[Row]:
    """False alarms of `compare`: eigenvalues by rank

    {seeds} pairs of runs of one matrix with other seeds, on the edges of bulks, close pairs and clusters: how often a
    rank is called different, and how often it would be by the values and their errors alone; in percent.
    """
    yield ["spectrum", "eigenvalues", "false alarms", "by the values alone"]
    for name, k, which in of_values.CELLS:
        yield [name, f"{k} ({which})", *percents(of_values.alarms_of(name, k, which, seeds, {}))]


def percents(shares: Sequence[float]) -> list[str]:
    """`-` where there is none."""
    return ["-" if math.isnan(share) else f"{100 * share:.1f}" for share in shares]


SECTIONS: dict[str, Any] = {
    "traces": of_traces,
    "density": of_densities,
    "norms": of_norms,
    "population": of_populations,
    "ranks": of_ranks,
    "neighbours": of_neighbours,
    "comparisons": of_comparisons,
    "comparisons-of-densities": of_densities_compared,
    "comparisons-of-ranks": of_ranks_compared,
}


def text_of(name: str, seeds: int, rows: Sequence[Row]) -> str:
    """A section: its heading, what was measured, the table."""
    title, _, told = SECTIONS[name].__doc__.partition("\n")
    told = re.sub(r"\n +", "\n", told.strip()).replace("{seeds}", f"{seeds}")
    table = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return f"## {title.strip().rstrip('.')}\n\n{told}\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in table) + "\n"


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=300)
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--out", type=Path, default=ROOT / "curvtool" / "docs" / "truth.md")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    held = re.split(r"^(?=## )", chosen.out.read_text(), flags=re.M)[1:] if chosen.out.exists() else []
    titles = {f"## {each.__doc__.splitlines()[0].strip().rstrip('.')}": name for name, each in SECTIONS.items()}
    found = {titles[text.splitlines()[0]]: text for text in held if text.splitlines()[0] in titles}
    for name in chosen.only:
        rows: list[Row] = []
        for row in SECTIONS[name](chosen.seeds):
            rows.append(row)
            print(" | ".join(row), flush=True)
            found[name] = text_of(name, chosen.seeds, rows)
            texts = [HEAD, *(found[each].strip() + "\n" for each in SECTIONS if each in found)]
            chosen.out.write_text("\n".join(texts))


if __name__ == "__main__":
    main()
