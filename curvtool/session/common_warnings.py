"""Warnings that every analysis of a matrix shares."""

from __future__ import annotations

import torch

from curvtool.operators.curvature import CurvatureOperator
from curvtool.session.stage import Stage


def add_common_warnings(stage: Stage, operator: CurvatureOperator, is_zero: bool, rtol: float) -> None:
    """The warnings that every analysis of a matrix shares, and the modes of its products."""
    if stage.noise > rtol and not operator.execution.is_approximate:  # CT217 covers these
        exact = stage.problem.dtype == torch.float64
        remedy = (
            "float64 itself loses digits (a loss or a probability that saturates; --operator ggn does not form that "
            "difference), or the model gives other values each time it is called"
            if exact
            else "--dtype float64 for better ones"
        )
        stage.warn(
            "CT205",
            f"the noise of {stage.dtype_name} products ({stage.noise:.1e}) is above rtol {rtol:g}: {remedy}",
        )
    if operator.execution.is_approximate:
        step = operator.execution.difference_step
        stage.warn(
            "CT217",
            f"products are central differences of gradients (step {step.length:g}), good to about "
            f"{stage.noise:.1e} (by two steps): approximate, where the model cannot be differentiated twice",
        )
    if operator.piece_size < operator.batch_size:
        stage.warn(
            "CT216",
            f"memory ran out with batches of {operator.batch_size}, so they were run in pieces of "
            f"{operator.piece_size}: --batch-size {operator.piece_size} saves the attempt",
        )
    _warn_of_what_was_not_checked(stage, operator)
    if is_zero and _is_zero(stage, operator):
        stage.warn(
            "CT207",
            "every product was exactly zero: the loss does not depend on these parameters "
            "(is --output-key right?), is cut off from them (no_grad, numpy, checkpointing by re-entering), "
            "is linear in them, or is saturated",
        )
    stage.modes = {
        "ad_mode": operator.execution.describe(),
        "operations": operator.execution.form,
        "groups_at_once": operator.stack.height_used,
        "vectors_at_once": operator.block.width_used,
        "timings": operator.execution.timings,
        "left_out": operator.execution.left_out,
        "batch_size": operator.batch_size,
    }


def _is_zero(stage: Stage, operator: CurvatureOperator) -> bool:
    """Whether a product with a random vector is exactly zero: numbers that are zero may have cancelled."""
    found: list[bool] = []
    vector = operator.space.normal(stage.config.compute.seed, 24)
    stage.attempt(lambda: found.append(not stage.cluster.any(bool(operator.matvec(vector).any()))))
    return found == [True]


def _warn_of_what_was_not_checked(stage: Stage, operator: CurvatureOperator) -> None:
    checks = stage.checks
    if checks is None or operator.execution.is_approximate:
        return
    if checks.finite_difference is None:
        reason = checks.unavailable.get("finite_difference", "no two step sizes agreed")
        stage.warn(
            "CT243",
            f"the second derivative was not checked: {reason}. The numbers suppose that autograd's is right; "
            "operations that round (fake quantization) or pass gradients straight through have none",
        )
    if checks.without_float64 is not None and checks.noise_floor is not None:
        stage.warn(
            "CT244",
            f"products could not be compared with float64 ({checks.without_float64}): the noise floor "
            f"({checks.noise_floor:.1e}) is the change of a product when parameters are rounded",
        )
    elif checks.noise_floor is None:
        reason = checks.unavailable.get("noise_floor", "it failed")
        stage.warn(
            "CT244",
            f"the noise of {stage.dtype_name} products was not measured: {reason}. Errors suppose that of rounding "
            f"once ({operator.noise:.1e})",
        )
