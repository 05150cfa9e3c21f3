"""Run as a rank of a group: prints the largest deviation of every wrapper of the named cases, and what it is of."""

import json
import sys

import torch
from cases import CASES
from wrappers import deviations, wrapped

from curvtool.cli.ranks import end_process, joined

if __name__ == "__main__":
    torch.set_num_threads(1)
    with joined(60.0) as cluster:
        found = {
            f"{case.name}, {name}, {what}": deviation
            for case in CASES
            if case.name in sys.argv[1:]
            for name, operator, dense in wrapped(case, cluster)
            for what, deviation in deviations(operator, dense)
        }
        assert all(operator.space.cluster.size == cluster.size for _, operator, _ in wrapped(CASES[0], cluster))
        print(json.dumps([cluster.size, max(cluster.gather_objects(max(found.values()))), found]))
    end_process(0)
