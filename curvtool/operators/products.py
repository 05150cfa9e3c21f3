"""Hessian-, Jacobian- and vector-Jacobian products; the only file that differentiates twice.

The functions without a class are for plain functions f of one tensor; nested, they give higher derivatives:

    >>> import torch
    >>> f = lambda x: torch.stack([x[0] + x[1], x[0] * x[1], x[0] ** 2])
    >>> jacobian(f, torch.tensor([2.0, 3.0]))
    tensor([[1., 1.],
            [3., 2.],
            [4., 0.]])
    >>> hessian(lambda x: x[0] ** 2 + x[0] * x[1] + 3 * x[1] ** 2, torch.tensor([1.0, 2.0]))
    tensor([[2., 1.],
            [1., 6.]])
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
import torch.autograd.forward_ad as forward_ad
from torch.autograd import grad

from curvtool.problem.rewrites.tangents import Pushing

Function = Callable[[torch.Tensor], torch.Tensor]
Parts = Sequence[torch.Tensor | None]
Differentiable = Callable[[Sequence[torch.Tensor]], torch.Tensor]  # of the parameters


class GradientGraph:
    """The gradient of a scalar with its graph kept, so that each product with the Hessian is one more backward pass.

    Reverse over reverse: g = dL/dtheta with its graph, then H v = d<g, v>/dtheta.

    Args:
        value: the scalar L, with its graph.
        parameters: the leaves theta.
    """

    def __init__(self, value: torch.Tensor, parameters: Sequence[torch.Tensor]) -> None:
        self.parameters = list(parameters)
        self.value = value.detach()
        self._gradient: Parts = [None] * len(self.parameters)
        if value.requires_grad:
            self._gradient = grad(value, self.parameters, create_graph=True, allow_unused=True)
        # a part without a graph of its own is linear in theta: its rows of the Hessian are zero
        self._curved = [(i, g) for i, g in enumerate(self._gradient) if g is not None and g.requires_grad]

    @property
    def gradient(self) -> Parts:
        """g in parts; None stands for zeros."""
        return [None if g is None else g.detach() for g in self._gradient]

    def product(self, vector: Sequence[torch.Tensor], *, keep: bool = True) -> Parts:
        """H v, a part for each parameter; None stands for zeros. Without `keep` the graph is given up."""
        if not self._curved:
            return [None] * len(self.parameters)
        return grad(
            [g for _, g in self._curved],
            self.parameters,
            [vector[i] for i, _ in self._curved],
            retain_graph=keep,
            allow_unused=True,
        )

    def products(self, vectors: Sequence[torch.Tensor]) -> Parts:
        """H V by one pass for all: V and the result in parts of shape (k, *shape); None stands for zeros."""
        if not self._curved:
            return [None] * len(self.parameters)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that an operation is run one by one: timings tell
            return grad(
                [g for _, g in self._curved],
                self.parameters,
                [vectors[i] for i, _ in self._curved],
                retain_graph=True,
                allow_unused=True,
                is_grads_batched=True,
            )


def stacked(products: Sequence[Parts]) -> Parts:
    """Products in parts, as parts with the products as their first dimension; None where all are zeros."""

    def joined(parts: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
        like = next((part for part in parts if part is not None), None)
        if like is None:
            return None
        return torch.stack([torch.zeros_like(like) if part is None else part for part in parts])

    return [joined(parts) for parts in zip(*products, strict=True)]


def _duals(primals: Sequence[torch.Tensor], tangents: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Dual tensors; torch's first one loads its rules, and newer versions warn of what they are written with.

    A tangent has its primal's layout, so that one tensor that stands for many (`expand`) has to be copied first.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        own = [p.contiguous() if 0 in p.stride() else p for p in primals]
        return [forward_ad.make_dual(p, t) for p, t in zip(own, tangents, strict=True)]


def forward_over_reverse(
    function: Differentiable,
    parameters: Sequence[torch.Tensor],
    vector: Sequence[torch.Tensor],
) -> Parts:
    """H v as the forward derivative of the gradient along v; keeps no graph of a gradient.

    Args:
        function: the scalar as a function of the parameters.
        parameters: theta.
        vector: v, in parts of the parameters' shapes.
    """
    with forward_ad.dual_level():
        duals = _duals([p.detach().requires_grad_() for p in parameters], vector)
        value = function(duals)
        if not value.requires_grad:
            return [None] * len(duals)
        gradient = grad(value, duals, allow_unused=True)
        return [None if g is None else forward_ad.unpack_dual(g).tangent for g in gradient]


class OutputGraph:
    """An output z(theta) with its graph kept, for products with its Jacobian J over the parameters.

    J^T u is one backward pass on the graph. J v is one pass in forward mode (`push_forward`), or where an operation has
    no forward rule two backward passes: u -> J^T u is linear in u, and its derivative along v is J v.

    Args:
        output: z, of any shape, with its graph.
        parameters: the leaves theta.
    """

    def __init__(self, output: torch.Tensor, parameters: Sequence[torch.Tensor]) -> None:
        self.output, self.parameters = output, list(parameters)
        self._transposed: tuple[torch.Tensor, list[tuple[int, torch.Tensor]]] | None = None

    def vjp(self, cotangent: torch.Tensor, *, keep: bool = True) -> Parts:
        """J^T u for u of the output's shape, in parts; None stands for zeros."""
        if not self.output.requires_grad:
            return [None] * len(self.parameters)
        return grad(self.output, self.parameters, cotangent, retain_graph=keep, allow_unused=True)

    def jvp(self, vector: Sequence[torch.Tensor]) -> torch.Tensor:
        """J v by reverse mode twice, of the output's shape."""
        if not self.output.requires_grad:
            return torch.zeros_like(self.output)
        if self._transposed is None:
            dummy = torch.zeros_like(self.output, requires_grad=True)
            pulled = grad(self.output, self.parameters, dummy, create_graph=True, allow_unused=True)
            self._transposed = dummy, [(i, g) for i, g in enumerate(pulled) if g is not None and g.requires_grad]
        dummy, linear = self._transposed
        (pushed,) = grad(
            [g for _, g in linear], dummy, [vector[i] for i, _ in linear], retain_graph=True, materialize_grads=True
        )
        return pushed


def push_forward(
    function: Differentiable, parameters: Sequence[torch.Tensor], vector: Sequence[torch.Tensor], fused: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """The output and J v in one pass of forward mode; nothing is kept.

    Args:
        function: the output as a function of the parameters.
        parameters: theta.
        vector: v, in parts of the parameters' shapes.
        fused: by the rules of `problem/rewrites/tangents.py`, where it has some.
    """
    with torch.no_grad(), forward_ad.dual_level(), Pushing() if fused else nullcontext():
        duals = _duals([p.detach() for p in parameters], vector)
        output, tangent = forward_ad.unpack_dual(function(duals))
        return output, torch.zeros_like(output) if tangent is None else tangent


def push_forward_with_graph(
    function: Differentiable, parameters: Sequence[torch.Tensor], vector: Sequence[torch.Tensor], fused: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """The output with its graph, and J v, from one pass: the tangents ride along and are gone before the backward pass.

    Leaving the level clears the tangents of everything that the graph saved, so that J^T u is a plain backward pass.
    The arguments are those of `push_forward`.
    """
    with forward_ad.dual_level(), Pushing() if fused else nullcontext():
        output, tangent = forward_ad.unpack_dual(function(_duals(parameters, vector)))
        tangent = torch.zeros_like(output) if tangent is None else tangent.detach()
    return output, tangent


class LinearizedFunction:
    """A function's output with its graph, so that every product with its Jacobian J is one backward pass.

    The batched use: rows of `output` (n, C) depend each on the row of the same index of the `leaves` alone; then one
    backward pass gives J_i^T u_i for every i at once.

    Args:
        output: (n, C), with its graph.
        leaves: the tensors that it is differentiated by, each with n as its first dimension.
    """

    def __init__(self, output: torch.Tensor, leaves: Sequence[torch.Tensor]) -> None:
        self.output, self.leaves = output, list(leaves)

    def vjp(self, cotangent: torch.Tensor, *, create_graph: bool = False) -> torch.Tensor:
        """J_i^T u_i for u of shape (n, C): shape (n, d), the leaves' coordinates one after the other."""
        if not self.output.requires_grad:
            return torch.cat([torch.zeros_like(leaf).flatten(1) for leaf in self.leaves], dim=1)
        parts = grad(
            self.output,
            self.leaves,
            cotangent,
            retain_graph=True,
            create_graph=create_graph,
            materialize_grads=True,
        )
        return torch.cat([part.flatten(1) for part in parts], dim=1)

    def jvp(self, tangent: torch.Tensor) -> torch.Tensor:
        """J_i v_i for v of shape (n, d): shape (n, C), by differentiating u -> J^T u, which is linear in u."""
        dummy = torch.zeros_like(self.output, requires_grad=True)
        pulled = self.vjp(dummy, create_graph=True)
        if not pulled.requires_grad:
            return torch.zeros_like(self.output)
        (pushed,) = grad(pulled, dummy, tangent, materialize_grads=True)
        return pushed


def _variable(x: torch.Tensor) -> torch.Tensor:
    """A variable to differentiate by; inside another derivative it stays tied to the outer one."""
    return x.view_as(x) if x.requires_grad else x.detach().requires_grad_()


def vjp(function: Function, x: torch.Tensor, cotangent: torch.Tensor) -> torch.Tensor:
    """J(x)^T u for f: R^n -> R^m; the shape of x."""
    with torch.enable_grad():
        variable = _variable(x)
        return _gradient(function(variable), variable, cotangent, x.requires_grad or cotangent.requires_grad)


def jvp(function: Function, x: torch.Tensor, tangent: torch.Tensor) -> torch.Tensor:
    """J(x) v for f: R^n -> R^m; the shape of f(x)."""
    with torch.enable_grad():
        variable = _variable(x)
        output = function(variable)
        dummy = torch.zeros_like(output, requires_grad=True)
        pulled = _gradient(output, variable, dummy, True)
        return _gradient(pulled, dummy, tangent, x.requires_grad or tangent.requires_grad)


def hvp(function: Function, x: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """H(x) v for f: R^n -> R; the shape of x."""
    with torch.enable_grad():
        variable = _variable(x)
        gradient = _gradient(function(variable), variable, None, True)
        return _gradient(gradient, variable, vector, x.requires_grad or vector.requires_grad)


def jacobian(function: Function, x: torch.Tensor) -> torch.Tensor:
    """The Jacobian df_i/dx_j, shape (*f(x).shape, *x.shape)."""
    with torch.enable_grad():
        variable = _variable(x)
        output = function(variable)
        rows = [_gradient(entry, variable, None, x.requires_grad) for entry in output.reshape(-1)]
    return torch.stack(rows).reshape((*output.shape, *x.shape))


def hessian(function: Function, x: torch.Tensor) -> torch.Tensor:
    """The Hessian d2f/dx_i dx_j of a scalar function, shape (*x.shape, *x.shape)."""

    def gradient(variable: torch.Tensor) -> torch.Tensor:
        return _gradient(function(variable), variable, None, True)

    return jacobian(gradient, x)


def _gradient(
    output: torch.Tensor, variable: torch.Tensor, cotangent: torch.Tensor | None, create_graph: bool
) -> torch.Tensor:
    """Zero where the output does not depend on the variable (constant or linear functions are not errors)."""
    if not output.requires_grad:
        return torch.zeros_like(variable)
    (result,) = grad(output, variable, cotangent, create_graph=create_graph, retain_graph=True, materialize_grads=True)
    return result
