"""How often the intervals of traces, of blocks' traces and of diagonals hold, and how wide they are."""

import itertools
import math

import numpy as np
import pytest
import torch
from matrices import BLOCKS_OF_FEW, SIZE, blocks_of_few, coupled_blocks, families

from curvtool import MatrixOperator, diagonal, trace
from curvtool.estimators.trace_by_probes import Blocks
from curvtool.linalg.intervals import student_t_quantile

FAMILIES = families()
METHODS = ["hutchinson", "deflated", "hutch++", "xtrace", "auto"]
BLOCKS = Blocks([SIZE // 8, SIZE // 2 - SIZE // 8, SIZE // 2], {"first": [0], "second": [1], "third": [2]})
SLACK = 1e-9


def trace_cell(terms, method, num_seeds, rtol=0.1, max_passes=48):
    """Coverage; the median of the width over that of a normal interval with the estimates' own spread; the median
    number of passes; how many were not exact. `deflated` and `hutch++` take a space of six vectors."""
    true, size = float(terms.sum(0).trace()), float(terms.abs().sum())
    rank = 6 if method in {"deflated", "hutch++"} else None
    runs = [
        trace(MatrixOperator(terms), method=method, rtol=rtol, max_passes=max_passes, rank=rank, seed=seed)
        for seed in range(num_seeds)
    ]
    held = np.mean([r.ci95[0] - SLACK * size <= true <= r.ci95[1] + SLACK * size for r in runs])
    drawn = [r for r in runs if r.stderr > SLACK * size]
    if len(drawn) < num_seeds / 2:
        return held, math.nan, float(np.median([r.cost.num_hvps for r in runs])), len(drawn)
    # errors of runs of different lengths, as if they were of one pass
    spread = np.sqrt(np.mean([(r.value - true) ** 2 * r.num_passes for r in drawn]))
    width = np.median([(r.ci95[1] - r.ci95[0]) / 2 * math.sqrt(r.num_passes) for r in drawn]) / (1.96 * spread)
    return held, float(width), float(np.median([r.cost.num_hvps for r in runs])), len(drawn)


def block_cell(terms, num_seeds):
    """Coverage of the blocks' own 95 % intervals, over blocks and seeds, and the median width over the exact one."""
    sizes = np.cumsum([0, *BLOCKS.sizes])
    bounds = list(itertools.pairwise(sizes))
    entries = terms.square()
    held, widths = [], []
    for seed in range(num_seeds):
        found = trace(MatrixOperator(terms), method="hutchinson", rtol=0.1, max_passes=32, seed=seed, blocks=BLOCKS)
        for block, (start, stop) in zip(found.blocks.values(), bounds, strict=True):
            true = float(terms.sum(0).diagonal()[start:stop].sum())
            low, high = block.ci95
            slack = SLACK * float(terms.abs().sum())
            held.append(low - slack <= true <= high + slack)
            inside = entries[:, start:stop, start:stop].sum() - terms.diagonal(0, 1, 2)[:, start:stop].square().sum()
            rows = entries[:, start:stop].sum() - entries[:, start:stop, start:stop].sum()
            exact = 1.96 * math.sqrt(float(2 * inside + rows) / found.num_passes)
            if exact > slack:
                widths.append((high - low) / 2 / exact)
    return float(np.mean(held)), float(np.median(widths)) if widths else math.nan


def coverage_of_each_block(terms, num_seeds, max_passes):
    """How often the 95 % interval of every block holds where one is told, of `BLOCKS_OF_FEW`; 1 where none ever is."""
    blocks = Blocks(list(BLOCKS_OF_FEW.values()), {name: [i] for i, name in enumerate(BLOCKS_OF_FEW)})
    parts = terms.sum(0).diagonal().split(blocks.sizes)
    held, size = {name: [] for name in BLOCKS_OF_FEW}, float(terms.abs().sum())
    for seed in range(num_seeds):
        found = trace(
            MatrixOperator(terms), method="hutchinson", rtol=0.01, max_passes=max_passes, seed=seed, blocks=blocks
        )
        for (name, block), part in zip(found.blocks.items(), parts, strict=True):
            if block.ci95 is not None:
                low, high = block.ci95
                held[name].append(low - 1e-12 * size <= float(part.sum()) <= high + 1e-12 * size)
    return {name: float(np.mean(each)) if each else 1.0 for name, each in held.items()}


def diagonal_cell(terms, num_seeds):
    """Coverage of the entries' 95 % intervals, the median width over the exact one, and the root mean square of the
    whole diagonal's error over the one that is told."""
    true = terms.sum(0).diagonal()
    spread = (terms.square().sum((0, 2)) - terms.diagonal(0, 1, 2).square().sum(0)).clamp_min(0)
    held, widths, ratios = [], [], []
    for seed in range(num_seeds):
        found = diagonal(MatrixOperator(terms), method="hutchinson", max_passes=20, seed=seed)
        half = student_t_quantile(0.975, found.entry_degrees) * found.stderr
        errors = (found.diagonal - true).abs()
        held.append(float((errors <= half + SLACK * true.abs().max()).double().mean()))
        exact = 1.96 * (spread / found.num_passes).sqrt()
        seen = exact > SLACK * true.abs().max()
        if bool(seen.any()):
            widths.append(float((half / exact)[seen].median()))
        ratios.append(float(errors.norm() / true.norm()) / max(found.relative_error or 0.0, 1e-12))
    return float(np.mean(held)), float(np.median(widths)), math.sqrt(np.mean(np.square(ratios)))


@pytest.mark.parametrize("name", ["rank one, 32 groups", "one of 2 entries dominates", "one-hot, 32 groups"])
def test_traces_at_a_glance(name):
    held, width, _, _ = trace_cell(FAMILIES[name], "hutchinson", 60, max_passes=20)
    assert held >= 0.86 and width <= 1.7
    assert block_cell(FAMILIES[name], 20)[0] >= 0.86


@pytest.mark.parametrize(
    ("terms", "max_passes"),
    [
        (coupled_blocks(1), 2),
        (blocks_of_few(1, False), 3),
        (blocks_of_few(4, True), 2),
        (blocks_of_few(1, False), 5),
        (blocks_of_few(4, True), 8),
        (blocks_of_few(1, False), 16),
    ],
)
def test_every_block_has_an_interval_that_holds(terms, max_passes):
    """Also one that depends on a few signs, or on one group, beside a dense one; a single parameter by two passes."""
    held = coverage_of_each_block(terms, 150, max_passes)
    assert min(held.values()) >= 0.89, held


@pytest.mark.slow
@pytest.mark.parametrize("max_passes", [2, 3, 4, 8, 16, 32])
@pytest.mark.parametrize("num_terms", [1, 4, 32])
@pytest.mark.parametrize("kind", ["uncoupled", "of one group", "coupled"])
def test_every_block(kind, num_terms, max_passes):
    """400 seeds, block by block."""
    terms = coupled_blocks(num_terms) if kind == "coupled" else blocks_of_few(num_terms, kind == "of one group")
    held = coverage_of_each_block(terms, 400, max_passes)
    assert min(held.values()) >= 0.93 - 2 * math.sqrt(0.93 * 0.07 / 400), held


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", FAMILIES)
def test_traces(name, method):
    """300 seeds: not below 93 % by more than two standard errors of that share."""
    held, width, _, _ = trace_cell(FAMILIES[name], method, 300)
    assert held >= 0.93 - 2 * math.sqrt(0.93 * 0.07 / 300), (held, width)
    assert math.isnan(width) or width <= 1.6


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_blocks(name):
    held, width = block_cell(FAMILIES[name], 300)
    assert held >= 0.93 and (math.isnan(width) or width <= 1.6), (held, width)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_diagonals(name):
    held, width, ratio = diagonal_cell(FAMILIES[name], 100)
    assert held >= 0.93 and width <= 1.6, (held, width, ratio)


def test_a_zero_matrix_has_no_error():
    zero = trace(MatrixOperator(torch.zeros(SIZE, SIZE, dtype=torch.float64)), method="hutchinson")
    assert zero.value == 0.0 and max(map(abs, zero.ci95)) < 1e-300 and zero.scale == 0.0  # below any normal number
