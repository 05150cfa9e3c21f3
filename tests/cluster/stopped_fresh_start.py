"""Run as a rank of a group: a search for eigenvalues that are there twice, stopped at each of its looks."""

import json

import torch
from stopping import stopped_at_each_look
from torch import nn

from curvtool import Hessian, Problem, eigenvalues
from curvtool.cli.ranks import end_process, joined


def operator_of(cluster):
    """Of the squared error of two outputs: every eigenvalue is there twice, the leading one is 4 / 60."""
    inputs = torch.zeros(60, 60, dtype=torch.float64)
    inputs.fill_diagonal_(1.0)
    inputs *= torch.linspace(0.1, 1.0, 60, dtype=torch.float64)[:, None]
    inputs[-1] *= 2
    problem = Problem(nn.Linear(60, 2, bias=False, dtype=torch.float64), (inputs, torch.zeros(60, 2)), "mse")
    return Hessian(problem, batch_size=10, cluster=cluster)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with joined(60.0) as cluster:
        operator = operator_of(cluster)
        whole, stops = stopped_at_each_look(
            lambda observer: eigenvalues(operator, 2, independent_start=True, observer=observer)
        )
    print(json.dumps([cluster.size, whole.values, stops]))
    end_process(0)
