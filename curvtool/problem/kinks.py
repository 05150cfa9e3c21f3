"""Samples that rounding moves across a kink of the model: few of all, with products that are wrong by far more than
rounding, so that a drawn part of the data seldom shows one.

A call in the working precision finds the samples whose arguments come near a kink; two more, of those alone, in that
precision and in float64, find which lie on its other side.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from curvtool.problem.cuts import spread

if TYPE_CHECKING:
    from curvtool.problem.problem import Problem

_WATCHED = 2**14  # samples that are looked at, at most, in batches over all the data
_NEAR = 64.0  # units of rounding of a sample's arguments: deep models lose some
_CANDIDATES = 256  # samples that are called in float64, the nearest ones
_MULTIPLIED, _COMPANY = 64, 16  # of them, those across and at least so many: alone in a call, rounding may spare one
Gaps = list[torch.Tensor]  # distances from a kink, whose sign tells the side


def _at(*places: float) -> Callable[..., Gaps]:
    return lambda x, *_, **__: [x - place for place in places]


def _between(x: Tensor, low: Any = None, high: Any = None, **named: Any) -> Gaps:
    ends = (named.get("min", low), named.get("max", high))
    return [x - end for end in ends if end is not None]


def _hardtanh(x: Tensor, low: float = -1.0, high: float = 1.0, *_: Any, **named: Any) -> Gaps:
    return _between(x, named.get("min_val", low), named.get("max_val", high))


def _beside(x: Tensor, at: Any = None, *_: Any, **named: Any) -> Gaps:
    at = next((named[name] for name in ("other", "threshold", "min", "max") if name in named), at)
    return [] if at is None else [x - at]


def _either(x: Tensor, at: Any = 0.5, *_: Any, **named: Any) -> Gaps:
    at = named.get("lambd", at)
    return [x - at, x + at]


def _of_residuals(x: Tensor, target: Any = None, *_: Any, **named: Any) -> Gaps:
    return [(x - named.get("target", target)).abs() - named.get("delta", named.get("beta", 1.0))]


def _methods(*names: str) -> list[Any]:
    """Of a tensor and of torch, and those that work in place, where there are such."""
    found = [getattr(place, name + end, None) for name in names for end in ("", "_") for place in (torch, Tensor)]
    return [each for each in found if each is not None]


def _functions(*names: str) -> list[Any]:
    found = [getattr(functional, name + end, None) for name in names for end in ("", "_")]
    return [each for each in found if each is not None]


# arguments at which a first or second derivative jumps
_KINKS: dict[Any, Callable[..., Gaps]] = {
    **dict.fromkeys(_functions("relu", "leaky_relu", "elu", "celu", "selu", "prelu", "rrelu"), _at(0.0)),
    **dict.fromkeys(_methods("relu", "prelu", "abs", "sign"), _at(0.0)),
    Tensor.__abs__: _at(0.0),
    functional.relu6: _at(0.0, 6.0),
    **dict.fromkeys(_functions("hardsigmoid", "hardswish"), _at(-3.0, 3.0)),
    **dict.fromkeys(_functions("hardtanh"), _hardtanh),
    **dict.fromkeys(_functions("threshold"), _beside),
    **dict.fromkeys(_functions("hardshrink", "softshrink"), _either),
    **dict.fromkeys(_methods("clamp", "clip"), _between),
    **dict.fromkeys(_methods("clamp_min", "clamp_max", "maximum", "minimum", "gt", "ge", "lt", "le"), _beside),
    **dict.fromkeys((Tensor.__gt__, Tensor.__ge__, Tensor.__lt__, Tensor.__le__), _beside),
    functional.huber_loss: _of_residuals,
    functional.smooth_l1_loss: _of_residuals,
}
_POOLS = {
    getattr(functional, f"{kind}max_pool{num}d"): num for kind in ("", "adaptive_") for num in (1, 2, 3)
}  # with the dimensions of a window
_LARGEST = {torch.max, Tensor.max, torch.amax, Tensor.amax}


class _Watch(TorchFunctionMode):
    """Hears the arguments of every operation with a kink.

    A function mode, since the first dispatch mode of a process imports SymPy, which takes a second or two.

    Args:
        num: samples in the batch.
        keeps_sides: keep on which side each argument lies.
    """

    def __init__(self, num: int, keeps_sides: bool = False) -> None:
        super().__init__()
        self.num, self.keeps_sides = num, keeps_sides
        self.nearest: torch.Tensor | None = None  # by sample, in units of rounding
        self.sides: list[torch.Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        named = dict(kwargs)
        values = (named.pop("input"), *args) if "input" in named else args
        if values and isinstance(values[0], Tensor) and values[0].is_floating_point():
            if func in _KINKS:
                for gap in _KINKS[func](*values, **named):
                    self._note(values[0], gap)
            elif func in _POOLS:
                named.pop("return_indices", None)
                self._note_pool(func, values, named)
            elif func in _LARGEST:
                self._note_largest(*values, **named)
        return func(*args, **kwargs)

    def _note_pool(self, func: Any, values: Any, named: Any) -> None:
        """Which of a window's entries is the largest; how far behind the second one is. Equal ones stay equal."""
        x, num = values[0], _POOLS[func]
        top, places = func(*values, **named, return_indices=True)
        if self.keeps_sides:
            self._keep(places)
            return
        lowest = -torch.finfo(x.dtype).max
        without = x.flatten(-num).scatter(-1, places.flatten(-num), lowest).view_as(x)
        gap = top - func(without, *values[1:], **named)
        self._note(x, torch.where(gap == 0, math.inf, gap))

    def _note_largest(self, x: Tensor, dim: Any = None, *_: Any, **named: Any) -> None:
        dim = named.get("dim", dim)
        if isinstance(dim, Tensor):  # of two
            self._note(x, x - dim)
        elif isinstance(dim, int) and x.shape[dim] > 1:
            (top, second), places = (each.unbind(dim) for each in x.topk(2, dim))
            if self.keeps_sides:
                self._keep(places[0])
            else:
                self._note(x, torch.where(top == second, math.inf, top - second))

    def _note(self, x: torch.Tensor, gap: torch.Tensor) -> None:
        if self.keeps_sides:
            self._keep(gap > 0)
            return
        gaps, values = self._by_sample(gap), self._by_sample(x)
        if gaps is None or values is None or not gaps.shape[1]:
            return
        # what an argument was summed from is not known: as large as the sample's arguments, or as those of all of them
        sizes = values.square().mean(1)
        sizes = torch.maximum(sizes, sizes.mean()).sqrt()
        place = self._by_sample(x - gap) if gap.shape == x.shape else None
        if place is not None:  # what it is compared with may be larger
            sizes = torch.maximum(sizes, place.abs().amax(1))
        unit = torch.finfo(x.dtype).eps * sizes
        gaps = gaps.abs() / unit[:, None]
        gaps = torch.where(gaps > 0, gaps, 1.0)  # exactly on it, or nothing but zeros: seldom of rounding
        near = gaps.amin(1)
        self.nearest = near if self.nearest is None else torch.minimum(self.nearest, near)

    def _keep(self, side: torch.Tensor) -> None:
        found = self._by_sample(side)
        if found is not None:
            self.sides.append(found)

    def _by_sample(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """A row a sample: where they lie along the first dimension, some rows each, or along the second one."""
        if tensor.dim() and tensor.shape[0] and tensor.shape[0] % self.num == 0:
            return tensor.reshape(self.num, -1)
        if tensor.dim() > 1 and tensor.shape[1] == self.num:
            return tensor.transpose(0, 1).reshape(self.num, -1)
        return None


@dataclass(frozen=True)
class Near:
    """Samples near a kink.

    Attributes:
        rows: those across, or some of them, with others nearby; none where none is across. Beside other samples
            rounding may spare one: what they do is to be looked at in one call of them all.
        across: the samples that lie on another side in the working precision than in float64.
        of_each: how many samples across each of those in `rows` stands for.
    """

    rows: list[int]
    across: list[int]
    of_each: float = 1.0


def rows_at_kinks(problem: Problem, batch_size: int) -> Near:
    """Looks for samples that rounding moves across a kink.

    Nothing is found where batches have statistics of their own, or parameters are cut among ranks.

    Args:
        problem: in the working precision.
        batch_size: samples in a call.
    """
    if problem.statistics_batch is not None or problem.sharded is not None or problem.dtype == torch.float64:
        return Near([], [])
    batches = problem.ranges(batch_size)
    looked = [batches[place] for place in spread(len(batches), max(1, _WATCHED // batch_size))]
    rows = [row for some in looked for row in some]
    nearest = torch.cat([_called(problem, some, _Watch(len(some))) for some in looked])
    near, order = nearest.sort()
    chosen = sorted(rows[place] for place in order[: min(_CANDIDATES, int((near < _NEAR).sum()))].tolist())
    if not chosen:
        return Near([], [])
    sides = []
    for dtype in (problem.dtype, torch.float64):
        few = problem.restricted(chosen, dtype)
        watch = _Watch(len(chosen), keeps_sides=True)
        _called(few, range(len(chosen)), watch)
        sides.append(watch.sides)
    apart = torch.zeros(len(chosen), dtype=torch.bool, device=problem.device)
    for one, other in zip(*sides, strict=True):
        apart |= (one != other).any(1)
    across = [chosen[place] for place in torch.nonzero(apart).flatten().tolist()]
    if not across:
        return Near([], [])
    taken = [across[place] for place in spread(len(across), _MULTIPLIED)]
    company = [row for row in chosen if row not in across][: max(0, _COMPANY - len(taken))]
    of_each = len(across) / len(taken) * problem.num_samples / len(rows)
    return Near(sorted(taken + company), across, of_each)


def _called(problem: Problem, rows: range, watch: _Watch) -> torch.Tensor:
    """By sample, how near a kink it comes."""
    batch = problem.batch(rows)
    with problem.context(), torch.no_grad(), watch:
        if problem.loss is None:
            problem.forward(problem.parameters, batch[0])
        else:
            problem.loss_sum(problem.parameters, batch)
    return torch.full((len(rows),), math.inf) if watch.nearest is None else watch.nearest.cpu()
