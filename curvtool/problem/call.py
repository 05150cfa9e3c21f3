"""A module as a function of its state and its inputs."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from curvtool.problem.module import (
    Evaluation,
    has_compiled,
    has_embeddings,
    has_ties,
    normalisers,
    scales_by_frequency,
    takes_keywords,
)
from curvtool.problem.rewrites.batch_statistics import BatchStatistics
from curvtool.problem.rewrites.embedding import Embeddings, Held
from curvtool.problem.rewrites.mode import Rewriting
from curvtool.problem.rewrites.precision import Precisely
from curvtool.problem.sharded import ShardedState
from curvtool.problem.tree import Tree, named_tensors
from curvtool.vocabulary import Form


class ModelCall:
    """Calls a module in evaluation mode with other parameters and buffers than its own.

    Args:
        model: the module, which is not modified.
        inputs: what it will be called with, of whose kind.
        sharded: how its parameters are cut over ranks, where they are.
        by_batch: normalise by the statistics of the batch at hand, as in training.

    Attributes:
        cleared_scaling: whether an embedding has `scale_grad_by_freq`, which is left out here.
        has_compiled: whether a module inside is wrapped by `torch.compile`, which is then left out.
        has_rnn: whether it has recurrent layers.
        casts_down: whether it casts to fewer digits than float64's; None until it was called in float64.
    """

    def __init__(
        self, model: nn.Module, inputs: Tree, sharded: ShardedState | None = None, by_batch: bool = False
    ) -> None:
        self.model, self.sharded = model, sharded
        self._modules = list(model.modules())
        self._by_name = takes_keywords(model, inputs)
        self._has_ties = has_ties(model)
        self.has_compiled = has_compiled(model)
        self.has_rnn = any(isinstance(module, nn.RNNBase) for module in self._modules)
        self.casts_down: bool | None = None
        self.cleared_scaling = scales_by_frequency(model)
        tokens = any(not tensor.is_floating_point() for _, tensor in named_tensors(inputs))
        # a function mode takes time at every operation; None: the first call tells
        self._looks_up = True if tokens or has_embeddings(model) else None
        own = normalisers(model) if by_batch else {}
        self._by_batch = list(own.values())
        self._statistics = [
            f"{name}.{key}" if name else key
            for name, module in own.items()
            for key, _ in module.named_buffers(recurse=False)
        ]

    def __call__(
        self,
        state: dict[str, torch.Tensor],
        inputs: Tree,
        form: Form,
        dtype: torch.dtype,
        held: Held | None = None,
    ) -> Any:
        """The raw output.

        Args:
            state: all parameters and buffers by name.
            inputs: a tensor, a tuple of arguments, or a dictionary of keywords (or one argument, as the module has it).
            form: of the operations.
            dtype: what is computed in; in float64 casts to less are left out.
            held: see `Embeddings`.
        """
        args: tuple[Any, ...] = inputs if isinstance(inputs, tuple) else (inputs,)
        kwargs: dict[str, Any] = {}
        if isinstance(inputs, Mapping) and self._by_name:
            args, kwargs = (), dict(inputs)
        if self._by_batch:  # what a module writes to them goes with the call
            state = {**state, **{name: state[name].clone() for name in self._statistics if name in state}}
        call = partial(functional_call, self.model, state, args, kwargs, tie_weights=self._has_ties)
        if self.sharded is not None:
            call = partial(self._gathering, self.sharded, state, args, kwargs)
        modes: list[TorchFunctionMode] = [] if form == "torch" else [Rewriting(form == "channels-last")]
        if self._by_batch:
            modes.append(BatchStatistics())
        with Evaluation(self._modules, self.has_compiled, self._by_batch):
            if self._looks_up is False:
                return self._within(modes, partial(self._precisely, call, dtype))
            lookups = Embeddings(held)
            output = self._within([*modes, lookups], partial(self._precisely, call, dtype))
            self._looks_up = self._looks_up or lookups.num_lookups > 0
            self.cleared_scaling = self.cleared_scaling or lookups.cleared_scaling
            return output

    @staticmethod
    def _within(modes: Sequence[TorchFunctionMode], call: partial[Any]) -> Any:
        with contextlib.ExitStack() as stack:
            for mode in modes:
                stack.enter_context(mode)
            return call()

    def _gathering(self, sharded: ShardedState, state: dict[str, torch.Tensor], args: Any, kwargs: Any) -> Any:
        pieces = {name: state[name] for name in sharded.cuts}
        buffers = {name: tensor for name, tensor in state.items() if name not in pieces}
        with sharded.placed(pieces):  # to look for ties would read, and so gather, every parameter
            return functional_call(self.model, buffers, args, kwargs, tie_weights=False)

    def _precisely(self, call: partial[Any], dtype: torch.dtype) -> Any:
        if dtype != torch.float64 or self.casts_down is False:
            return call()
        with Precisely() as precision:
            output = call()
        self.casts_down = self.casts_down or precision.num_casts > 0
        return output
