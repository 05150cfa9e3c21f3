"""A problem whose tensors all come from outside, so that what is computed with it can be traced as a pure function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch

from curvtool.problem.problem import Problem
from curvtool.problem.tree import Tree


class Tensors(NamedTuple):
    """Everything that a product on a batch depends on, but for the vector."""

    parameters: Mapping[str, torch.Tensor]
    constants: Mapping[str, torch.Tensor]
    batch: tuple[Tree, Tree | None]


class TracedProblem(Problem):
    """The same functions of other tensors of the same shapes; its only batch is the one given.

    Args:
        problem: whose model and loss these are.
        tensors: what to use in place of its parameters, constants and samples.
    """

    def __init__(self, problem: Problem, tensors: Tensors) -> None:
        self.__dict__.update(problem.__dict__)
        self.parameters = {name: p.detach().requires_grad_() for name, p in tensors.parameters.items()}
        self._constants = dict(tensors.constants)
        self._batch = tensors.batch

    @staticmethod
    def tensors(problem: Problem, rows: range) -> Tensors:
        """Those of a problem and of these of its samples."""
        parameters = {name: p.detach() for name, p in problem.parameters.items()}
        return Tensors(parameters, problem._constants, problem.batch(rows))

    def batch(self, rows: range) -> tuple[Tree, Tree | None]:
        """The given one."""
        return self._batch
