"""A problem as a plain module, a criterion and tensors, for libraries that take these."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from curvtool.problem.problem import Problem
from curvtool.problem.tree import Tree


class ProblemModule(nn.Module):
    """The prediction as a module whose parameters are those that take part, copied."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self._problem = [problem]  # not a submodule
        self._names = list(problem.parameters)
        self.values = nn.ParameterList([nn.Parameter(p.detach().clone()) for p in problem.parameters.values()])

    def forward(self, inputs: Tree) -> torch.Tensor:
        """The prediction on a batch."""
        problem = self._problem[0]
        return problem.prediction(problem.forward(dict(zip(self._names, self.values, strict=True)), inputs))


def mean_loss(problem: Problem) -> Any:
    """The loss of a batch as torch has it: its sum over its own weight (over nothing for `--reduction sum`)."""
    loss = problem.loss
    assert loss is not None

    def criterion(prediction: torch.Tensor, targets: Tree) -> torch.Tensor:
        weight = loss.weight(targets) if problem.reduction != "sum" else 1.0
        return loss.sum(prediction, targets) / weight

    return criterion
