"""Convolutions whose second derivative is two convolutions, one input gradient and one weight gradient.

torch's own double backward of a convolution swaps batch and channel dimensions, and of a grouped one it loops over the
groups: thousands of small calls. Here the first derivative is an autograd function of its own. With y = x * w, the
first derivatives gx = d<gy, y>/dx and gw = d<gy, y>/dw, and v_x, v_w the directions that these are pulled back along:

    d/dgy = v_x * w + x * v_w        d/dx = input-gradient(gy, v_w)        d/dw = weight-gradient(gy, v_x)

Both functions differentiate each other, so that all orders of derivative exist, in forward mode too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd import Function
from torch.nn import functional


@dataclass(frozen=True)
class Geometry:
    """What a convolution is besides its tensors, a number for each spatial dimension; as `torch.convolution` has it."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool
    output_padding: tuple[int, ...]
    groups: int

    def apply(self, x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None) -> torch.Tensor:
        """x * w + b."""
        return torch.ops.aten.convolution.default(
            x, w, b, self.stride, self.padding, self.dilation, self.transposed, self.output_padding, self.groups
        )

    def gradients(
        self, gy: torch.Tensor, x: torch.Tensor, w: torch.Tensor, wanted: tuple[bool, bool]
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """The derivatives of <gy, x * w> by x and by w; None where not wanted."""
        gx, gw, _ = torch.ops.aten.convolution_backward.default(
            gy,
            x,
            w,
            None,
            self.stride,
            self.padding,
            self.dilation,
            self.transposed,
            self.output_padding,
            self.groups,
            [*wanted, False],
        )
        return gx if wanted[0] else None, gw if wanted[1] else None


class _Convolution(Function):
    """y = x * w + b."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, geometry: Geometry) -> torch.Tensor:
        return geometry.apply(x, w, b)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        x, w, _, ctx.geometry = inputs
        ctx.save_for_backward(x, w)
        ctx.save_for_forward(x, w)

    @staticmethod
    def backward(ctx: Any, gy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, w = ctx.saved_tensors
        need_x, need_w, need_b, _ = ctx.needs_input_grad
        gx, gw = _gradients(gy, x, w, ctx.geometry, need_x, need_w)
        gb = gy.sum((0, *range(2, gy.dim()))) if need_b else None
        return gx, gw, gb, None

    @staticmethod
    def jvp(
        ctx: Any, x_t: torch.Tensor | None, w_t: torch.Tensor | None, b_t: torch.Tensor | None, _: None
    ) -> torch.Tensor:
        x, w = ctx.saved_tensors
        y_t = _sum(
            None if x_t is None else _convolve(x_t, w, None, ctx.geometry),
            None if w_t is None else _convolve(x, w_t, None, ctx.geometry),
        )
        return y_t if b_t is None else y_t + b_t.view(-1, *(1,) * (x.dim() - 2))


def _save(ctx: Any, inputs: tuple[Any, ...]) -> None:
    """gy, x and w, for both modes, and the geometry."""
    *tensors, ctx.geometry = inputs
    ctx.save_for_backward(*tensors)
    ctx.save_for_forward(*tensors)


class _InputGradient(Function):
    """gx = d<gy, x * w>/dx, linear in gy and w; x gives the shape alone."""

    generate_vmap_rule = True

    @staticmethod
    def forward(gy: torch.Tensor, x: torch.Tensor, w: torch.Tensor, geometry: Geometry) -> torch.Tensor:
        gx, _ = geometry.gradients(gy, x, w, (True, False))
        assert gx is not None
        return gx

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        _save(ctx, inputs)

    @staticmethod
    def backward(ctx: Any, v_x: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gy, _, w = ctx.saved_tensors
        need_gy, _, need_w, _ = ctx.needs_input_grad
        d_gy = _convolve(v_x, w, None, ctx.geometry) if need_gy else None
        d_w = _weight_gradient(gy, v_x, w, ctx.geometry) if need_w else None
        return d_gy, None, d_w, None

    @staticmethod
    def jvp(ctx: Any, gy_t: torch.Tensor | None, x_t: Any, w_t: torch.Tensor | None, _: None) -> torch.Tensor:
        gy, x, w = ctx.saved_tensors
        return _sum(
            None if gy_t is None else _input_gradient(gy_t, x, w, ctx.geometry),
            None if w_t is None else _input_gradient(gy, x, w_t, ctx.geometry),
        )


class _WeightGradient(Function):
    """gw = d<gy, x * w>/dw, linear in gy and x; w gives the shape alone."""

    generate_vmap_rule = True

    @staticmethod
    def forward(gy: torch.Tensor, x: torch.Tensor, w: torch.Tensor, geometry: Geometry) -> torch.Tensor:
        _, gw = geometry.gradients(gy, x, w, (False, True))
        assert gw is not None
        return gw

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        _save(ctx, inputs)

    @staticmethod
    def backward(ctx: Any, v_w: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gy, x, _ = ctx.saved_tensors
        need_gy, need_x, _, _ = ctx.needs_input_grad
        d_gy = _convolve(x, v_w, None, ctx.geometry) if need_gy else None
        d_x = _input_gradient(gy, x, v_w, ctx.geometry) if need_x else None
        return d_gy, d_x, None, None

    @staticmethod
    def jvp(ctx: Any, gy_t: torch.Tensor | None, x_t: torch.Tensor | None, w_t: Any, _: None) -> torch.Tensor:
        gy, x, w = ctx.saved_tensors
        return _sum(
            None if gy_t is None else _weight_gradient(gy_t, x, w, ctx.geometry),
            None if x_t is None else _weight_gradient(gy, x_t, w, ctx.geometry),
        )


class _Gradients(Function):
    """(gx, gw) in one call, where both are wanted."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        gy: torch.Tensor, x: torch.Tensor, w: torch.Tensor, geometry: Geometry
    ) -> tuple[torch.Tensor, torch.Tensor]:
        gx, gw = geometry.gradients(gy, x, w, (True, True))
        assert gx is not None and gw is not None
        return gx, gw

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        _save(ctx, inputs)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, v_x: torch.Tensor | None, v_w: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        gy, x, w = ctx.saved_tensors
        need_gy, need_x, need_w, _ = ctx.needs_input_grad
        geometry = ctx.geometry
        d_gy = d_x = d_w = None
        if need_gy and (v_x is not None or v_w is not None):
            d_gy = _sum(
                None if v_x is None else _convolve(v_x, w, None, geometry),
                None if v_w is None else _convolve(x, v_w, None, geometry),
            )
        if need_x and v_w is not None:
            d_x = _input_gradient(gy, x, v_w, geometry)
        if need_w and v_x is not None:
            d_w = _weight_gradient(gy, v_x, w, geometry)
        return d_gy, d_x, d_w, None

    @staticmethod
    def jvp(
        ctx: Any, gy_t: torch.Tensor | None, x_t: torch.Tensor | None, w_t: torch.Tensor | None, _: None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        gy, x, w = ctx.saved_tensors
        geometry = ctx.geometry
        gx_t = gw_t = None
        if gy_t is not None:
            gx_t, gw_t = _gradients(gy_t, x, w, geometry, True, True)
        gx_t = _sum(gx_t, None if w_t is None else _input_gradient(gy, x, w_t, geometry))
        gw_t = _sum(gw_t, None if x_t is None else _weight_gradient(gy, x_t, w, geometry))
        return gx_t, gw_t


_convolve: Callable[..., torch.Tensor] = _Convolution.apply
_input_gradient: Callable[..., torch.Tensor] = _InputGradient.apply
_weight_gradient: Callable[..., torch.Tensor] = _WeightGradient.apply


def _gradients(
    gy: torch.Tensor, x: torch.Tensor, w: torch.Tensor, geometry: Geometry, need_x: bool, need_w: bool
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    if need_x and need_w:
        found: tuple[torch.Tensor, torch.Tensor] = _Gradients.apply(gy, x, w, geometry)
        return found
    return (
        _input_gradient(gy, x, w, geometry) if need_x else None,
        _weight_gradient(gy, x, w, geometry) if need_w else None,
    )


def _sum(left: torch.Tensor | None, right: torch.Tensor | None) -> torch.Tensor:
    if left is None or right is None:
        found = left if right is None else right
        assert found is not None, "one of both has a tangent"
        return found
    return left + right


def _each(value: Any, num: int) -> tuple[int, ...]:
    """One number for all dimensions, or one for each."""
    values = [value] if isinstance(value, int) else list(value)
    return tuple(int(v) for v in values) * (num if len(values) == 1 else 1)


def convolve(
    num: int,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> torch.Tensor:
    """`torch.nn.functional.conv1d`, `conv2d` or `conv3d`: `num` spatial dimensions, the same arguments and result."""
    steps = _each(dilation, num)
    if isinstance(padding, str):
        pads = [d * (k - 1) if padding == "same" else 0 for d, k in zip(steps, weight.shape[2:], strict=True)]
        if any(pad % 2 for pad in pads):  # torch puts the odd one behind
            extra = [side for pad in reversed(pads) for side in (0, pad % 2)]
            x = functional.pad(x, extra)
        padding = [pad // 2 for pad in pads]
    geometry = Geometry(_each(stride, num), _each(padding, num), steps, False, (0,) * num, groups)
    return _whole(num, x, weight, bias, geometry)


def convolve_transposed(
    num: int,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> torch.Tensor:
    """`torch.nn.functional.conv_transpose1d`, `2d` or `3d`, likewise."""
    sizes = (_each(v, num) for v in (stride, padding, dilation, output_padding))
    steps, pads, spread, behind = sizes
    return _whole(num, x, weight, bias, Geometry(steps, pads, spread, True, behind, groups))


def _whole(
    num: int, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, geometry: Geometry
) -> torch.Tensor:
    batched = x.dim() == num + 2
    y = _convolve(x if batched else x[None], weight, bias, geometry)
    return y if batched else y[0]
