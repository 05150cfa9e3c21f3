"""Torch's differentiable operations, one by one: which ways to a second derivative are right in the installed version.

The samples are those of torch's own tests (`torch.testing._internal`). On each, a Hessian product by reverse mode
twice and one by forward over reverse are compared with central differences of gradients in float64. Forward over
reverse is as products here run it, without a graph of the gradient: some backward formulas (`det`, `solve`) then use
factors that have no tangent, and are wrong where `torch.func.jvp(torch.func.grad)`, which keeps that graph, is right.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch.utils import _pytree as pytree

from curvtool.errors import LoadError
from curvtool.operators.products import GradientGraph, Parts, forward_over_reverse

Verdict = Literal["right", "wrong", "refused", "not checked"]
_STEPS = (1e-4, 3e-5, 1e-5, 3e-6)
_TOLERANCE, _JUMP = 1e-4, 1e-2
_MAX_NUMBERS = 2000
_CASTS = {"bfloat16", "half", "float", "cfloat", "chalf"}  # to fewer digits, of which differences see the steps
_WORST: tuple[Verdict, ...] = ("wrong", "refused", "right", "not checked")


@dataclass(frozen=True)
class OperationCheck:
    """Attributes:
    name: of the operation, as torch's tests have it.
    reverse: verdict on reverse mode twice, the worst over the samples.
    forward: likewise on forward over reverse.
    error: the largest relative error of a product that is wrong; None where none is.
    """

    name: str
    reverse: Verdict
    forward: Verdict
    error: float | None


def check_operations(samples: int = 3, observe: Callable[[str, int, int], None] | None = None) -> list[OperationCheck]:
    """Checks every operation that torch's tests have samples of, on the CPU.

    Args:
        samples: of each operation, at most.
        observe: hears each operation's name, its number and how many there are.

    Raises:
        LoadError: CT018, torch's test samples cannot be imported.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torch.testing._internal.common_methods_invocations import op_db
    except ImportError as error:
        raise LoadError(
            "CT018",
            "torch's own test samples cannot be imported",
            expected="the extra 'ops'",
            received=str(error),
            remedy="pip install 'curvtool[ops]'",
        ) from error
    operations = [
        op
        for op in op_db
        if op.supports_autograd and torch.float64 in op.supported_backward_dtypes("cpu") and op.name not in _CASTS
    ]
    found = []
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        for number, operation in enumerate(operations):
            name = operation.name + (f" ({operation.variant_test_name})" if operation.variant_test_name else "")
            if observe is not None:
                observe(name, number, len(operations))
            found.append(_check(name, operation, samples))
    return found


def _check(name: str, operation: Any, samples: int) -> OperationCheck:
    reverse: list[tuple[Verdict, float]] = []
    forward: list[tuple[Verdict, float]] = []
    for function, leaves in _functions(operation, samples):
        one, two = check_function(function, leaves)
        reverse.append(one)
        forward.append(two)
    errors = [error for verdict, error in [*reverse, *forward] if verdict == "wrong" and math.isfinite(error)]
    return OperationCheck(name, _worst(reverse), _worst(forward), max(errors, default=None))


def _worst(verdicts: list[tuple[Verdict, float]]) -> Verdict:
    found = {verdict for verdict, _ in verdicts}
    return next((verdict for verdict in _WORST if verdict in found), "not checked")


def _functions(operation: Any, samples: int) -> Iterator[tuple[Callable[[Any], torch.Tensor], list[torch.Tensor]]]:
    """Scalar functions of the samples' tensors, curved even where the operation is linear."""
    try:
        inputs = list(operation.sample_inputs("cpu", torch.float64, requires_grad=True))
    except Exception:  # samples that this installation cannot make
        return
    count = 0
    for sample in inputs:
        arguments = (sample.input, sample.args, sample.kwargs)
        flat, spec = pytree.tree_flatten(arguments)
        places = [i for i, t in enumerate(flat) if isinstance(t, torch.Tensor) and t.requires_grad]
        leaves = [flat[i].detach().clone() for i in places]
        numbers = sum(leaf.numel() for leaf in leaves)
        if not 0 < numbers <= _MAX_NUMBERS or any(leaf.dtype != torch.float64 for leaf in leaves):
            continue

        function = partial(_value, operation, sample.output_process_fn_grad, flat, spec, places)
        try:
            with torch.enable_grad():
                value = function([leaf.clone().requires_grad_() for leaf in leaves])
        except Exception:  # an operation that this installation does not have
            continue
        if value.requires_grad and bool(value.isfinite()):
            yield function, leaves
            count += 1
        if count == samples:
            return


def _value(
    operation: Any, process: Callable[[Any], Any] | None, flat: list[Any], spec: Any, places: list[int], values: Any
) -> torch.Tensor:
    """A scalar of the operation's outputs, its differentiable arguments replaced by `values`."""
    filled = list(flat)
    for place, value in zip(places, values, strict=True):
        filled[place] = value * 1.0  # operations in place are given what is no leaf
    first, args, kwargs = pytree.tree_unflatten(filled, spec)
    torch.manual_seed(0)  # the same draws in every call
    output = operation.gradcheck_wrapper(operation.op, first, *args, **kwargs)
    output = process(output) if process is not None else output
    tensors = [t for t in pytree.tree_leaves(output) if isinstance(t, torch.Tensor) and t.requires_grad]
    parts = [torch.view_as_real(t) if t.is_complex() else t for t in tensors]
    weights = [torch.linspace(0.5, 1.5, t.numel(), dtype=t.dtype).view(t.shape) for t in parts]
    return torch.stack([(w * t + 0.5 * t**2).sum() for w, t in zip(weights, parts, strict=True)]).sum()


def check_function(
    function: Callable[[Any], torch.Tensor], leaves: list[torch.Tensor]
) -> tuple[tuple[Verdict, float], tuple[Verdict, float]]:
    """Verdict and relative error of reverse mode twice and of forward over reverse, against differences of gradients.

    Args:
        function: a scalar function of tensors.
        leaves: the point, in float64.
    """
    vector = [torch.linspace(-1.0, 1.0, leaf.numel(), dtype=leaf.dtype).view(leaf.shape) + 0.1 for leaf in leaves]
    true = _difference(function, leaves, vector)

    def variables() -> list[torch.Tensor]:
        return [leaf.clone().requires_grad_() for leaf in leaves]

    def reverse() -> Parts:
        point = variables()
        return GradientGraph(function(point), point).product(vector)

    return _judge(reverse, true, leaves), _judge(lambda: forward_over_reverse(function, leaves, vector), true, leaves)


def _judge(
    product: Callable[[], Parts], true: torch.Tensor | None, leaves: list[torch.Tensor]
) -> tuple[Verdict, float]:
    try:
        with torch.enable_grad():
            found = _flat(product(), leaves)
    except Exception:  # torch refuses in many ways
        return "refused", 0.0
    if true is None:
        return "not checked", 0.0
    size = float(true.norm())
    error = float((found - true).norm()) / size if size > 1e-8 else float((found - true).norm())
    return ("right" if error <= _TOLERANCE else "wrong"), error


def _difference(
    function: Callable[[Any], torch.Tensor], leaves: list[torch.Tensor], vector: list[torch.Tensor]
) -> torch.Tensor | None:
    """The product by the step whose result the next one changes least.

    None where no two agree, or the gradient between the ends is not their mean: kinks, jumps, singularities.
    """
    last: torch.Tensor | None = None
    best: tuple[float, torch.Tensor] | None = None
    for step in _STEPS:
        ends = []
        for sign in (1.0, -1.0, 0.0):
            point = [(leaf + sign * step * v).requires_grad_() for leaf, v in zip(leaves, vector, strict=True)]
            try:
                with torch.enable_grad():
                    value = function(point)
                    ends.append(_flat(torch.autograd.grad(value, point, allow_unused=True), leaves))
            except Exception:
                return None
        found = (ends[0] - ends[1]) / (2 * step)
        bend = float((ends[0] + ends[1] - 2 * ends[2]).norm()) / max(float(ends[2].norm()), 1e-8)
        if not bool(found.isfinite().all()) or bend > _JUMP:
            return None
        if last is not None:
            change = float((found - last).norm()) / max(float(found.norm()), 1e-8)
            if best is None or change < best[0]:
                best = (change, found)
        last = found
    return best[1] if best is not None and best[0] < _TOLERANCE / 10 else None


def _flat(parts: Parts, leaves: list[torch.Tensor]) -> torch.Tensor:
    pairs = zip(parts, leaves, strict=True)
    return torch.cat([torch.zeros(leaf.numel(), dtype=leaf.dtype) if p is None else p.reshape(-1) for p, leaf in pairs])
