"""Where in a model an operation without a second derivative is: each module differentiated twice by itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.func import functional_call

from curvtool.errors import CurvtoolError, DerivativeError
from curvtool.problem.tree import map_tensors, named_tensors

if TYPE_CHECKING:
    from curvtool.problem.problem import Problem

_STEP, _TOLERANCE = 1e-5, 1e-2
_NUM_SAMPLES = 8  # over all the data


def located(error: DerivativeError, problem: Problem) -> DerivativeError:
    """The error with the innermost module in which the operation is, where that can be found.

    Args:
        error: raised by a product, or of one that is wrong (CT053) or not finite (CT054).
        problem: whose model is called once more, on a few samples.
    """
    if problem.sharded is not None:  # single modules would gather what other ranks do not ask for
        return error
    try:
        name = _culprit(problem, _is_wrong if error.code in {"CT053", "CT054"} else _fails)
    except Exception:  # a model that only works whole: the error is told as it is
        name = None
    if name is None:
        return error
    where = f"{error.message}: in {name}"
    return DerivativeError(error.code, where, expected=error.expected, received=error.received, remedy=error.remedy)


def _culprit(problem: Problem, is_bad: Callable[[_Alone], bool]) -> str | None:
    """The innermost module that is bad, by its name and class."""
    calls: list[tuple[str, nn.Module, Any, Any]] = []

    def record(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            calls.append((name, module, args, kwargs))  # in the order in which they end: the innermost first

        return hook

    modules = [(name or "the model", module) for name, module in problem.model.named_modules()]
    hooks = [module.register_forward_hook(record(name), with_kwargs=True) for name, module in modules]
    try:
        with problem.context(), torch.no_grad():
            problem.forward(problem.parameters, problem.batch_of(problem.spread(_NUM_SAMPLES))[0])
    finally:
        for hook in hooks:
            hook.remove()
    for name, module, args, kwargs in calls:
        training = module.training
        try:
            module.eval()
            with problem.context():
                bad = is_bad(_Alone(module, args, kwargs))
        except CurvtoolError:
            bad = True
        finally:
            module.train(training)
        if bad:
            return f"{name} ({type(module).__name__})"
    return None


class _Alone:
    """A sum over a module's outputs as a function of its floating inputs and parameters, in float64."""

    def __init__(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.module, self.args, self.kwargs = module, args, kwargs
        state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        self.state = {name: t.detach().double() if t.is_floating_point() else t for name, t in state.items()}
        self.names = [name for name, p in module.named_parameters() if p.requires_grad]
        inputs = [t for _, t in named_tensors((args, kwargs)) if t.is_floating_point()]
        self.point = [t.detach().double() for t in inputs] + [self.state[name] for name in self.names]

    def gradient(self, leaves: list[torch.Tensor], create_graph: bool) -> list[torch.Tensor | None]:
        given = iter(leaves)

        def take(tensor: torch.Tensor) -> torch.Tensor:
            return next(given) * 1.0 if tensor.is_floating_point() else tensor  # some modules write to their inputs

        args, kwargs = map_tensors(take, self.args), map_tensors(take, self.kwargs)
        own = dict(zip(self.names, given, strict=True))
        output = functional_call(self.module, {**self.state, **own}, args, kwargs)
        outputs = [t for _, t in named_tensors(output) if t.requires_grad]
        if not outputs:
            return [None] * len(leaves)
        value = torch.stack([out.square().sum() for out in outputs]).sum()
        return list(torch.autograd.grad(value, leaves, create_graph=create_graph, allow_unused=True))

    def product(self) -> list[torch.Tensor]:
        """The second derivative times a vector of ones."""
        leaves = [t.clone().requires_grad_() for t in self.point]
        gradient = self.gradient(leaves, True) if leaves else []
        curved = [g for g in gradient if g is not None and g.requires_grad]
        if not curved:
            return [torch.zeros_like(t) for t in self.point]
        ones = [torch.ones_like(g) for g in curved]
        return list(torch.autograd.grad(curved, leaves, ones, materialize_grads=True))

    def difference(self, step: float) -> list[torch.Tensor]:
        """The same as a central difference of gradients."""
        ends = []
        for sign in (1.0, -1.0):
            moved = [(t + sign * step).requires_grad_() for t in self.point]
            ends.append(self.gradient(moved, False))
        return [
            torch.zeros_like(t) if a is None or b is None else (a - b) / (2 * step)
            for t, a, b in zip(self.point, *ends, strict=True)
        ]


def _fails(alone: _Alone) -> bool:
    try:
        alone.product()
    except RuntimeError as error:
        return "dtype" not in str(error)  # one that has to be in another precision is no culprit
    return False


def _is_wrong(alone: _Alone) -> bool:
    if not alone.point:
        return False
    found, wanted = alone.product(), alone.difference(_STEP)
    gap = sum(float((a - b).square().sum()) for a, b in zip(found, wanted, strict=True)) ** 0.5
    size = sum(float(b.square().sum()) for b in wanted) ** 0.5
    return math.isfinite(size) and not gap <= _TOLERANCE * size  # a NaN agrees with nothing
