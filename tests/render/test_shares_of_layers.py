"""A layer's share of the trace is told with an interval that holds, and not where the whole is not told from zero."""

import re

import numpy as np
import torch

from curvtool import MatrixOperator, trace
from curvtool.analyses.trace.record import BlockTrace, Trace
from curvtool.analyses.trace.show import verdict
from curvtool.estimators.trace_by_probes import Blocks
from curvtool.report.model import Cost

SIZES = {"first": 4, "second": 12, "third": 48}


def record(terms, seed, max_passes):
    blocks = Blocks(list(SIZES.values()), {name: [i] for i, name in enumerate(SIZES)})
    found = trace(
        MatrixOperator(terms), method="hutchinson", rtol=0.01, max_passes=max_passes, seed=seed, blocks=blocks
    )
    layers = {
        name: BlockTrace(
            value=each.value, stderr=each.stderr, degrees_of_freedom=each.degrees, arithmetic_error=each.arithmetic,
            num_params=SIZES[name],
        )
        for name, each in found.blocks.items()
    }  # fmt: skip
    return Trace(
        operator="hessian", method="hutchinson", method_reason="", rank=0, rtol=0.01, converged=False,
        value=found.value, stderr=found.stderr, degrees_of_freedom=found.degrees, arithmetic_error=found.arithmetic,
        ci95=found.ci95, num_passes=found.num_passes, num_terms=found.num_terms, per_parameter=None, per_layer=layers,
        cost=Cost(num_hvps=1, solver_hvps=1, check_hvps=0, data_passes=1, seconds=1, peak_bytes=0),
    )  # fmt: skip


def test_the_share_of_the_largest_layer_has_an_interval_that_holds():
    rows = np.random.default_rng(0).normal(size=(64, 64))
    terms = torch.from_numpy(np.einsum("ti,tj->tij", rows, rows))
    diagonal = terms.sum(0).diagonal()
    true = 100 * float(diagonal[16:].sum() / diagonal.sum())
    held = []
    for seed in range(100):
        (told,) = [text for text in verdict(record(terms, seed, 12)) if text.startswith("Layer third")]
        low, high = map(float, re.search(r"95 % interval: ([\d.]+) % to ([\d.]+) %", told).groups())
        held.append(low - 0.5 <= true <= high + 0.5)
    assert np.mean(held) >= 0.95


def test_no_share_of_a_whole_that_may_be_zero():
    draw = torch.Generator().manual_seed(0)
    terms = torch.randn(1, 64, 64, generator=draw, dtype=torch.float64)
    terms = terms + terms.mT - torch.diag_embed(2 * terms.diagonal(dim1=1, dim2=2)) + 0.1 * torch.eye(64)
    unknown = [found for found in (record(terms, seed, 8) for seed in range(30)) if found.ci95[0] < 0 < found.ci95[1]]
    assert len(unknown) > 20 and not [text for found in unknown for text in verdict(found) if "holds" in text]
