"""A problem whose groups of samples have parameters of their own: the model is mapped over the groups in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from curvtool.problem.problem import Problem
from curvtool.problem.tree import Tree, map_tensors
from curvtool.words import counted


class StackedProblem(Problem):
    """The same numbers as a loop over groups, in as many calls as a single group takes (`torch.func.vmap`).

    Every parameter has the groups as its first dimension; a batch is `num_groups` groups of one size, one after the
    other. The outputs of all groups lie in one row, so that losses see an ordinary batch.

    Args:
        problem: the problem of a single group.
        num_groups: the number of groups.
    """

    def __init__(self, problem: Problem, num_groups: int) -> None:
        self.__dict__.update(problem.__dict__)
        self.num_groups = num_groups
        self.parameters = {
            name: p.detach().expand(num_groups, *p.shape).requires_grad_() for name, p in problem.parameters.items()
        }

    def first(self, num: int) -> range:
        """As near to so many as groups of one size can be, and one sample a group at least; whole batches where these
        have statistics."""
        if self.statistics_batch is not None:
            return range(self.num_groups * self.statistics_batch)
        return range(self.num_groups * max(1, min(num, self.num_samples) // self.num_groups))

    def _check_whole(self, rows: range, size: int) -> None:
        """Raises RuntimeError where not every group is a batch with statistics of its own."""
        if rows.start % size or len(rows) != self.num_groups * size:
            raise RuntimeError(
                f"samples {rows.start} to {rows.stop} are not {counted(self.num_groups, 'batch')} of {size}"
            )

    def sampled(self, wanted: int) -> Problem:
        """As many as make groups of one size."""
        return super().sampled(len(self.first(wanted)))

    def _middle_batches(self, num: int) -> Sequence[int]:
        return super()._middle_batches(num * self.num_groups)

    def forward(self, parameters: Mapping[str, torch.Tensor], inputs: Tree) -> torch.Tensor:
        """The predictions of all groups, the first dimension theirs together."""

        def of_group(parts: Sequence[torch.Tensor], group: Tree) -> torch.Tensor:
            output = Problem.forward(self, dict(zip(parameters, parts, strict=True)), group)
            return Problem.prediction(self, output)

        grouped = map_tensors(lambda t: t.unflatten(0, (self.num_groups, -1)), inputs)
        predictions: torch.Tensor = torch.func.vmap(of_group)(tuple(parameters.values()), grouped)
        return predictions.flatten(0, 1)

    def prediction(self, output: Any) -> torch.Tensor:
        """What `forward` gives is the prediction already."""
        assert isinstance(output, torch.Tensor)
        return output
