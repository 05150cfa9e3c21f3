"""The cost model: against cases worked out by hand, and against what two ranks count."""

import dataclasses
import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from curvtool import Hessian, Problem
from curvtool.cluster.group import join
from curvtool.linalg.lanczos import Lanczos
from curvtool.planning.cost_model import SHARDED_GATHERS, SHARDED_MODULES, SHARDED_SCATTERS, SMALL_SUMS, ClusterModel

DIGITS = ("demo:digits", "--num-samples", "60", "--dry-run")


def a_model(**changes):
    model = ClusterModel(
        num_params=1001,
        itemsize=4,
        num_samples=10,
        product_seconds=2.0,
        ranks=4,
        bandwidth=1e3,
        latency=0.5,
        row_seconds=0.1,
        rows_met=6,
        basis_vectors=8,
        batch_size=2,
        graph_bytes_per_sample=100,
        graph_budget=250,
        keeps_graphs=True,
        largest_module=500,
        num_tensors=3,
    )
    return dataclasses.replace(model, **changes)


def test_seconds_of_a_product():
    model = a_model()
    assert (model.share, model.num_batches, model.piece) == (3, 2, 251)
    assert model.gathered_bytes == model.scattered_bytes == 4 * 4 * 251
    seconds = model.seconds
    assert seconds.compute == pytest.approx(2.0 * 3 / 10)
    assert seconds.traffic == pytest.approx(2 * 4 * 3 * 251 / 1e3)  # three other ranks' pieces, each way
    assert seconds.latency == pytest.approx(0.5 * (2 + SMALL_SUMS))
    assert seconds.vectors == pytest.approx(2 * 0.1 * 6 * 251 / 1001)
    assert seconds.total == pytest.approx(seconds.compute + seconds.traffic + seconds.latency + seconds.vectors)


def test_bytes_of_a_rank():
    held = a_model().bytes
    assert held.parameters == 4 * 1001 and a_model(num_frozen=9).bytes.parameters == 4 * 1010
    assert held.working == 4 * (5 * 1001 + 251)  # the reduction: more than 4 P + 2 M
    assert a_model(keeps_graphs=False).bytes.working == 4 * (5 * 1001 + 2 * 500)
    assert held.basis == 8 * 251 * 4
    assert a_model(basis_itemsize=2).bytes.basis == 8 * 251 * 2
    assert held.graphs == 2 * 100 + 4 * 1001  # one batch of the two within the budget, and its gradient
    assert a_model(graph_budget=10**6).bytes.graphs == 3 * 100 + 2 * 4 * 1001
    assert a_model(keeps_graphs=False).bytes.graphs == 2 * 100
    assert held.total == held.parameters + held.working + held.basis + held.graphs


def test_one_rank_has_no_traffic():
    model = a_model(ranks=1)
    assert model.gathered_bytes == model.num_collectives == 0
    assert model.seconds.compute == 2.0 and model.seconds.traffic == model.seconds.latency == 0.0
    assert model.seconds.vectors == pytest.approx((2 + 5 / 2) * 0.1 * 6)  # the parts of the data: five batches
    assert model.bytes.working == 4 * (3 * 1001 + 2 * 500) and model.bytes.basis == 8 * 1001 * 4


def test_probes_of_groups_are_whole_on_every_rank():
    model = a_model(exchanged=False)
    assert model.gathered_bytes == model.scattered_bytes == 0 and model.num_collectives == 1
    assert model.bytes.basis == 8 * 1001 * 4


def test_ranks_that_share_devices():
    assert a_model(devices=2).seconds.compute == pytest.approx(2 * a_model().seconds.compute)
    assert a_model(devices=8).seconds == a_model().seconds


def test_sharded_parameters():
    model = a_model(sharded=True, keeps_graphs=False)
    assert model.gathered_bytes == SHARDED_GATHERS * 2 * 4 * 4 * 251  # for each of two batches
    assert model.scattered_bytes == SHARDED_SCATTERS * 2 * 4 * 4 * 251
    assert model.num_collectives == (SHARDED_GATHERS + SHARDED_SCATTERS) * 3 * 2 + SMALL_SUMS
    held = model.bytes
    assert held.parameters == 4 * 251 and held.working == 4 * (5 * 251 + SHARDED_MODULES * 500)
    assert held.total < a_model(keeps_graphs=False).bytes.total


def on_two_ranks():
    """What each of two processes of this file does: one step of Lanczos, and the bytes and calls that it took."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    cluster = join(60)
    problem = Problem(network, (torch.randn(9, 5).double(), torch.randint(0, 3, (9,))), "cross-entropy")
    operator = Hessian(problem, cluster=cluster, mode="fresh", form="torch", batch_size=2)
    lanczos = Lanczos(operator.matvec_in_parts, operator.space, 6, (0,))
    counts = []
    for _ in range(3):
        lanczos.step(lambda pairs, number: np.arange(number))
        counts.append((cluster.traffic.gathered, cluster.traffic.scattered, cluster.num_calls))
    if cluster.is_first:
        print(json.dumps([operator.space.dim, counts, lanczos.basis.nbytes]))
    cluster.close()


def test_traffic_is_what_two_ranks_count(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = []
    for rank in range(2):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
        place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        processes.append(
            subprocess.Popen(
                [sys.executable, __file__],
                env={**os.environ, **place},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=tmp_path,
            )
        )
    try:
        told = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], told
    dim, counts, basis_bytes = json.loads(told[0][0].splitlines()[-1])
    assert dim % 2 == 1  # so that there is padding
    model = ClusterModel(dim, 8, 9, 1.0, ranks=2, basis_vectors=7)
    steps = np.diff(counts, axis=0)
    assert (steps[:, 0] == model.gathered_bytes).all() and (steps[:, 1] == model.scattered_bytes).all()
    assert (steps[:, 2] == model.num_collectives - 1).all()  # the solver by itself asks nobody whether to stop
    assert basis_bytes == model.bytes.basis


def test_dry_run_on_ranks(run):
    one = json.loads(run("eigs", *DIGITS, "--json", "-")[1])
    assert one["on_ranks"] is None
    status, out, _ = run("eigs", *DIGITS, "--ranks", 4, "--bandwidth", "1GB", "--json", "-")
    plan = json.loads(out)
    ranks, dim = plan["on_ranks"], plan["num_trainable"]
    assert status == 0 and plan["expected_products"] == one["expected_products"]
    assert (ranks["ranks"], ranks["samples_per_rank"], ranks["bandwidth"]) == (4, 15, 1e9)
    piece = -(-dim // 4)
    assert ranks["gathered_bytes"] == ranks["scattered_bytes"] == 4 * 4 * piece
    seconds, held = ranks["seconds_per_product"], ranks["bytes_per_rank"]
    assert seconds["compute"] == pytest.approx(plan["seconds_per_product"] / 4)
    assert seconds["traffic"] == pytest.approx(2 * 3 * 4 * piece / 1e9)
    assert seconds["vectors"] > 0 and seconds["latency"] > 0
    for parts in (seconds, held):
        own = [value for name, value in parts.items() if name not in ("total", "unavailable")]
        assert parts["total"] == pytest.approx(sum(own))
    assert held["parameters"] == 4 * dim and held["basis"] % (4 * piece) == 0
    assert ranks["expected_products"] == plan["expected_products"] + 4  # a closing product a pair in the place of one
    assert ranks["expected_seconds"] == pytest.approx(ranks["expected_products"] * seconds["total"])


@pytest.mark.parametrize("analysis", ["trace", "density", "diag", "jacnorm", "check"])
def test_dry_run_of_every_analysis(run, analysis):
    status, out, _ = run(analysis, *DIGITS, "--ranks", 3, "--json", "-")
    ranks = json.loads(out)["on_ranks"]
    assert status == 0 and ranks["samples_per_rank"] == 20
    assert (ranks["gathered_bytes"] > 0) == (analysis == "density")  # probes of groups stay where they are


def test_the_table_fits_a_terminal(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    out = run("eigs", *DIGITS, "--ranks", 64)[1]
    assert "on 64 ranks" in out and "memory a rank" in out
    assert max(map(len, out.splitlines())) <= 80 and "…" not in out


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        (("--ranks", 4), "CT003"),
        (("--bandwidth", "25GiB"), "CT003"),
        (("--dry-run", "--ranks", 0), "CT001"),
        (("--dry-run", "--bandwidth", "fast"), "CT001"),
        (("--dry-run", "--bandwidth", "0"), "CT001"),
    ],
)
def test_wrong_uses_are_refused(run, flags, code):
    status, out, err = run("eigs", "demo:digits", *flags)
    assert status == 2 and not out and code in err and str(flags[-2]) in err


if __name__ == "__main__":
    on_two_ranks()
