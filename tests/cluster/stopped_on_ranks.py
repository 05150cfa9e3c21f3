"""Run as a rank of a group: runs that one rank asks to stop, again and again, beside the uninterrupted ones.

python stopped_on_ranks.py FOLDER STOPS NAME …
"""

import json
import random
import shutil
import sys
from pathlib import Path

import torch
from resume.test_by_name import SEVERAL, several
from resume.test_resume import RUNS, Stopper, configured, numbers, same

from curvtool.cli.ranks import end_process, joined
from curvtool.errors import StopRequested
from curvtool.resume.ledger import Keeping
from curvtool.session.load import load
from curvtool.session.run import most_demanding, run_all


def stops_of(name, wanted, folder, cluster):
    """How many stops there were until the numbers were those of the uninterrupted run, by name."""
    configs = several(name) if name in SEVERAL else [configured(name)]
    loaded = load(most_demanding(configs), cluster=cluster)
    whole = numbers(run_all(configs, cluster=cluster, loaded=loaded).report)
    rng, stops, most = random.Random(name), 0, 60
    while stops < wanted:
        keeping, at = Keeping(folder, go_on=True), rng.randint(1, most)
        try:
            asked = Stopper(at if cluster.is_first else 0)
            outcome = run_all(configs, cluster=cluster, keeping=keeping, was_asked=asked, loaded=loaded)
            stopped = outcome.stopped is not None
            assert not stopped or outcome.is_resumable
        except StopRequested:
            stopped = True
        stops += stopped
        if not stopped:
            same(numbers(outcome.report), whole)
            most = max(2, most // 2)  # it runs through: stop it earlier
            cluster.first(lambda: shutil.rmtree(folder))
    outcome = run_all(configs, cluster=cluster, keeping=Keeping(folder, go_on=True), loaded=loaded)
    same(numbers(outcome.report), whole)
    return stops


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, wanted, *names = sys.argv[1:]
    with joined(120.0) as cluster:
        found = {name: stops_of(name, int(wanted), Path(folder) / str(i), cluster) for i, name in enumerate(names)}
    print(json.dumps([cluster.size, found, sorted({*RUNS, *SEVERAL})]))
    end_process(0)
