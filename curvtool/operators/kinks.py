"""Samples that rounding moves across a kink of the model: few of all, with products that are wrong by far more than
rounding, so that a drawn part of the data seldom shows one.

A first call in the working precision finds the samples whose arguments come near a kink; a second one, of those alone
and in float64, finds those that lie on its other side.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from curvtool.problem.cuts import spread

if TYPE_CHECKING:
    from curvtool.problem.problem import Problem

_WATCHED = 2**14  # samples that are looked at, at most, in batches over all the data
_NEAR = 64.0  # units of rounding of a sample's arguments: deep models lose some
_CANDIDATES = 64  # samples that are looked at in float64, the nearest ones
Gaps = list[torch.Tensor]  # distances from a kink, whose sign tells the side
_aten = torch.ops.aten


def _at(*places: float) -> Callable[..., Gaps]:
    return lambda x, *_, **__: [x - place for place in places]


def _between(x: torch.Tensor, low: Any = -1.0, high: Any = 1.0, **_: Any) -> Gaps:
    return [x - end for end in (low, high) if end is not None]


def _beside(x: torch.Tensor, at: Any, *_: Any, **__: Any) -> Gaps:
    return [x - at]


def _either(x: torch.Tensor, at: Any = 0.5, *_: Any, **__: Any) -> Gaps:
    return [x - at, x + at]


def _of_residuals(x: torch.Tensor, y: torch.Tensor, _reduction: int = 1, at: float = 1.0) -> Gaps:
    return [(x - y).abs() - at]


# arguments at which a first or second derivative jumps
_KINKS: dict[Any, Callable[..., Gaps]] = {
    _aten.relu: _at(0.0),
    _aten.leaky_relu: _at(0.0),
    _aten.rrelu_with_noise: _at(0.0),
    _aten.elu: _at(0.0),
    _aten.celu: _at(0.0),
    _aten._prelu_kernel: _at(0.0),
    _aten.abs: _at(0.0),
    _aten.sign: _at(0.0),
    _aten.hardsigmoid: _at(-3.0, 3.0),
    _aten.hardswish: _at(-3.0, 3.0),
    _aten.threshold: _beside,
    _aten.hardtanh: _between,
    _aten.clamp: lambda x, low=None, high=None, **_: _between(x, low, high),
    _aten.clamp_min: _beside,
    _aten.clamp_max: _beside,
    _aten.hardshrink: _either,
    _aten.softshrink: _either,
    _aten.maximum: _beside,
    _aten.minimum: _beside,
    _aten.gt: _beside,
    _aten.ge: _beside,
    _aten.lt: _beside,
    _aten.le: _beside,
    _aten.huber_loss: _of_residuals,
    _aten.smooth_l1_loss: _of_residuals,
}
_IN_PLACE = {
    getattr(_aten, f"{kind.__name__}_"): found for kind, found in _KINKS.items() if hasattr(_aten, f"{kind.__name__}_")
}


class _Watch(TorchDispatchMode):
    """Hears the arguments of every operation with a kink.

    Args:
        num: samples in the batch.
        keeps_sides: keep on which side each argument lies.
    """

    def __init__(self, num: int, keeps_sides: bool = False) -> None:
        super().__init__()
        self.num, self.keeps_sides = num, keeps_sides
        self.nearest: torch.Tensor | None = None  # by sample, in units of rounding
        self.sides: list[torch.Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func.overloadpacket
        find = _KINKS.get(packet) or _IN_PLACE.get(packet)
        if find is not None and isinstance(args[0], torch.Tensor) and args[0].is_floating_point():
            for gap in find(*args, **kwargs):
                self._note(args[0], gap)
        found = func(*args, **kwargs)
        if packet is _aten.max_pool2d_with_indices:
            self._note_pool(func, args, kwargs, found)
        return found

    def _note_pool(self, func: Any, args: Any, kwargs: Any, found: Any) -> None:
        """Which of a window's entries is the largest; how far behind the second one is. Equal ones stay equal."""
        x, (top, places) = args[0], found
        if self.keeps_sides:
            self._keep(places)
            return
        without = x.flatten(-2).scatter(-1, places.flatten(-2), -math.inf).view_as(x)
        gap = top - func(without, *args[1:], **kwargs)[0]
        self._note(x, torch.where(gap == 0, math.inf, gap))

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
        place = self._by_sample(x - gap)
        if place is not None:
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
        rows: the nearest ones; none where none of them is across. Beside other samples rounding may spare one: what
            they do is to be looked at in one call of them all.
        across: those of them that lie on another side in the working precision than in float64.
        of_each: how many samples of the data each stands for.
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
    return Near(chosen if across else [], across, problem.num_samples / len(rows))


def _called(problem: Problem, rows: range, watch: _Watch) -> torch.Tensor:
    """By sample, how near a kink it comes."""
    batch = problem.batch(rows)
    with problem.context(), torch.no_grad(), watch:
        if problem.loss is None:
            problem.forward(problem.parameters, batch[0])
        else:
            problem.loss_sum(problem.parameters, batch)
    return torch.full((len(rows),), math.inf) if watch.nearest is None else watch.nearest.cpu()
