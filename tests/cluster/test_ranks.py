"""Several ranks: the numbers of one process, and an end with words where a rank fails, goes away or hangs."""

import json
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from ranks import Ranks

from curvtool.cluster.place import place_of
from curvtool.config.resolve import resolve, resolve_all
from curvtool.errors import UsageError
from curvtool.session.run import run, run_all

PLAIN = ["--dtype", "float64", "--operations", "torch", "--hvp", "fresh", "--batch-size", "64", "--device", "cpu"]
RUNS = """\
[model]
checkpoint = "demo:digits"
[data]
num_samples = {num}
batch_size = 64
[compute]
dtype = "float64"
operations = "torch"
hvp = "fresh"
device = "cpu"
[[analysis]]
kind = "eigs"
k = 2
which = "be"
[[analysis]]
kind = "trace"
rtol = 0.2
max_passes = 12
[[analysis]]
kind = "trace"
method = "xtrace"
max_passes = 8
[[analysis]]
kind = "density"
probes = 2
steps = 6
outliers = 2
[[analysis]]
kind = "diag"
rtol = 0.5
[[analysis]]
kind = "diag"
operator = "ggn"
method = "exact"
[[analysis]]
kind = "jacnorm"
top = 3
"""
# what is estimated from the parts of the data or by another closing check, what it cost, and the signs of entries that
# are zero but for rounding
_OTHERS = {
    "cost", "data_stderr", "data_bias", "population", "check_discrepancy", "residual_norm", "relative_residual",
    "vector_error", "error_bound", "bound_kind", "unavailable", "negative", "negative_interval",
}  # fmt: skip


def floats(value, where=""):
    if isinstance(value, dict):
        for key, item in value.items():
            if key not in _OTHERS:
                yield from floats(item, f"{where}.{key}")
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from floats(item, f"{where}[{number}]")
    elif isinstance(value, float):
        yield where, value


def same(found, wanted):
    """To 1e-10 of the largest number of a kind; errors moderated by logarithms of spreads, some of which are nearly
    zero by chance, to 1e-5; what rounding may do, which each group measures by draws of its own, within ten times."""
    found, wanted = dict(floats(found)), dict(floats(wanted))
    assert found.keys() == wanted.keys()
    kinds = {}
    for where, value in wanted.items():
        kinds.setdefault("".join(c for c in where if not c.isdigit()), []).append((where, value))
    for members in kinds.values():
        scale = max(abs(value) for _, value in members)
        for where, value in members:
            if where.endswith("arithmetic_error"):
                assert value / 10 <= found[where] <= 10 * value, where
                continue
            assert abs(found[where] - value) <= (1e-5 if where.endswith("mean_stderr") else 1e-10) * scale, where


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The numbers of one process, and the project file, for a number of samples."""
    kept = {}

    def of(num):
        if num not in kept:
            file = tmp_path_factory.mktemp("runs") / "runs.toml"
            file.write_text(RUNS.format(num=num))
            report = run_all(resolve_all({}, config_file=str(file), environment={})).report
            kept[num] = file, json.loads(report.model_dump_json())["analyses"]
        return kept[num]

    return of


@pytest.mark.parametrize(("size", "starter", "num"), [(3, "Slurm", 203), (4, "torchrun", 3)])
def test_the_numbers_of_one_process(size, starter, num, alone, tmp_path):
    """Shares that differ in size, and ranks without a sample."""
    file, wanted = alone(num)
    with Ranks(size, "run", file, "--json", tmp_path / "r.json", starter=starter) as ranks:
        statuses, out, said = ranks.ended()
    assert statuses == [0] * size, said
    assert out.count("Eigenvalues of the Hessian") == 1
    same(json.loads((tmp_path / "r.json").read_text())["analyses"], wanted)


def test_started_by_torchrun_itself(alone, tmp_path):
    file, wanted = alone(203)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--no-python"]
    words = ["-m", "curvtool", "run", str(file), "--json", str(tmp_path / "r.json")]
    ended = subprocess.run([*torchrun, sys.executable, *words], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("Eigenvalues of the Hessian") == 1
    same(json.loads((tmp_path / "r.json").read_text())["analyses"], wanted)


@pytest.mark.slow
@pytest.mark.parametrize("starter", ["torchrun", "Slurm"])
@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("num", [1797, 3, 1])
def test_the_numbers_of_one_process_at_length(size, starter, num, alone, tmp_path):
    file, wanted = alone(num)
    with Ranks(size, "run", file, "--json", tmp_path / "r.json", starter=starter) as ranks:
        statuses, _, said = ranks.ended(timeout=1200)
    assert statuses == [0] * size, said
    same(json.loads((tmp_path / "r.json").read_text())["analyses"], wanted)


COUNTED = """
import json, sys
from curvtool.cluster.group import join
from curvtool.estimators.eigenvalues import eigenvalues
from curvtool.operators.hessian import Hessian
from curvtool.problem.demo import digits, trained_digits_net
from curvtool.problem.problem import Problem
import torch

cluster = join(60)
problem = Problem(trained_digits_net(), digits().subset(101, None), "cross-entropy", dtype=torch.float64)
hessian = Hessian(problem, mode="fresh", form="torch", batch_size=40, cluster=cluster)
vector = hessian.space.normal(1)
before = (cluster.traffic.summed, cluster.traffic.scattered, cluster.traffic.gathered)
hessian.matvec(vector)
after = (cluster.traffic.summed, cluster.traffic.scattered, cluster.traffic.gathered)
print(json.dumps({"moved": [b - a for a, b in zip(before, after)], "basis": hessian.space.vector_bytes,
                  "size": hessian.space.size, "dim": hessian.space.dim, "ranks": cluster.size}))
cluster.close()
"""


@pytest.mark.parametrize("size", [2, 4])
def test_a_product_moves_one_all_reduce_and_the_basis_is_shared(size):
    """A reduce-scatter of the result and an all-gather of the vector: together an all-reduce of P numbers."""
    with Ranks(size, "-c", COUNTED, command=(sys.executable,)) as ranks:
        statuses, out, said = ranks.ended()
    assert statuses == [0] * size, said
    told = json.loads(out)
    padded = -(-told["dim"] // size) * size * 8
    assert told["moved"] == [0, padded, padded]
    assert told["basis"] * size == padded


def test_a_rank_that_fails_ends_the_others_with_its_words(tmp_path):
    """Here the data of one rank are not there."""
    (tmp_path / "mine.py").write_text(
        textwrap.dedent("""
        import os
        import torch

        def net():
            return torch.nn.Linear(4, 2)

        def data():
            if os.environ["RANK"] == "1":
                raise RuntimeError("the disk of this machine is gone")
            return torch.randn(10, 4), torch.randint(2, (10,))
        """)
    )
    (tmp_path / "w.pt").write_bytes(b"")
    import torch

    torch.save(torch.nn.Linear(4, 2).state_dict(), tmp_path / "w.pt")
    words = ["eigs", "w.pt", "--factory", "mine:net", "--data", "mine:data", "-k", "1"]
    begin = time.monotonic()
    with Ranks(2, *words, folder=tmp_path) as ranks:
        statuses, _, said = ranks.ended()
    assert time.monotonic() - begin < 120
    assert statuses[1] == 3 and "the disk of this machine is gone" in said[1]
    assert statuses[0] == 70 and "rank 1 failed" in said[0]


@pytest.mark.parametrize("flag", [["--num-samples", "{}"], ["-k", "{}"], ["--batch-size", "{}"]])
def test_ranks_of_unlike_commands(flag):
    """Told before collectives that would not fit each other."""
    shell = f"exec {sys.executable} -m curvtool eigs {' '.join(flag).format('$((40 + RANK))')}"
    with Ranks(2, "-c", shell, command=("bash",)) as ranks:
        statuses, _, said = ranks.ended()
    assert statuses == [3, 3]
    assert sum(text.count("CT065") for text in said) == 1, said


def test_what_all_ranks_refuse_is_told_once(tmp_path):
    with Ranks(2, "eigs", "nowhere.pt", "--factory", "a:b", "--data", "c.npz", folder=tmp_path) as ranks:
        statuses, _, said = ranks.ended()
    assert statuses == [3, 3]
    assert sum(text.count("CT010") for text in said) == 1


def test_a_rank_that_is_killed_ends_the_others(tmp_path):
    kept = ["--resume", tmp_path / "state", "--checkpoint-seconds", "0"]
    with Ranks(2, "trace", "demo:digits", "--rtol", "1e-6", "--rank-timeout", "60", *kept, *PLAIN) as ranks:
        until_saved(tmp_path / "state", 2)
        ranks.send(signal.SIGKILL, rank=1)
        statuses, _, said = ranks.ended()
    assert statuses[1] == -signal.SIGKILL
    assert statuses[0] == 70 and ("gone away" in said[0] or "rank 1" in said[0]), said[0]


def test_a_rank_that_hangs_is_named_after_the_timeout(tmp_path):
    kept = ["--resume", tmp_path / "state", "--checkpoint-seconds", "0"]
    with Ranks(2, "trace", "demo:digits", "--rtol", "1e-6", "--rank-timeout", "15", *kept, *PLAIN) as ranks:
        until_saved(tmp_path / "state", 2)
        ranks.send(signal.SIGSTOP, rank=1)
        try:
            said = ranks.processes[0].communicate(timeout=90)[1]
        finally:
            ranks.send(signal.SIGKILL, rank=1)
        assert ranks.processes[0].returncode == 70
        assert "CT061" in said and "rank 1" in said


def test_a_signal_to_one_rank_stops_all_and_other_numbers_of_ranks_go_on(tmp_path):
    """Two ranks begin, three go on, and one comes to the end."""
    words = ["eigs", "demo:digits", "-k", "2", "--rtol", "1e-12", "--max-basis", "12", *PLAIN]
    words += [
        "--checkpoint-seconds",
        "0",
        "--num-samples",
        "700",
        "--resume",
        str(tmp_path / "state"),
        "--json",
        str(tmp_path / "r.json"),
    ]
    for size, rank in ((2, 1), (3, 0)):
        with Ranks(size, *words) as ranks:
            until_saved(tmp_path / "state", 3)
            ranks.send(signal.SIGUSR1, rank=rank)
            statuses, _, said = ranks.ended()
        assert statuses == [75] * size, said
    flags = {
        "checkpoint": "demo:digits", "k": 2, "rtol": 1e-12, "max_basis": 12, "dtype": "float64", "operations": "torch",
        "hvp": "fresh", "batch_size": "64", "num_samples": 700, "device": "cpu",
    }  # fmt: skip
    wanted = run(resolve("eigs", flags, environment={})).report
    with Ranks(1, *words) as ranks:
        statuses, _, said = ranks.ended()
    assert statuses == [0], said
    found = json.loads((tmp_path / "r.json").read_text())
    same(found["analyses"], json.loads(wanted.model_dump_json())["analyses"])
    assert found["analyses"][0]["cost"]["solver_hvps"] == wanted.analyses[0].cost.solver_hvps


def until_saved(folder, times):
    """Until some products are through."""
    end, seen = time.monotonic() + 100, set()
    while len(seen) < times:
        assert time.monotonic() < end
        seen |= {path.name for path in folder.glob("[0-9]*")}
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, None),
        (
            {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "h", "MASTER_PORT": "5"},
            (1, 4, 1, "h", 5),
        ),
        ({"RANK": "0", "WORLD_SIZE": "1"}, None),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "9"}, None),  # the script
        (
            {
                "SLURM_PROCID": "3", "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "1",
                "SLURM_JOB_ID": "9", "SLURM_STEP_ID": "2", "SLURM_STEP_NODELIST": "gpu[007-009,12],x1",
            },
            (3, 4, 1, "gpu007", 15000 + 31 * 9 + 2),
        ),
        (
            {
                "SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_LOCALID": "1", "SLURM_STEP_ID": "0",
                "SLURM_JOB_ID": "9", "SLURM_STEP_NODELIST": "r[1-2]n[01-04]",
            },
            (1, 2, 1, "r1n01", 15000 + 31 * 9),
        ),
    ],
)  # fmt: skip
def test_the_place_by_the_variables(environment, wanted):
    place = place_of(environment)
    found = None if place is None else (place.rank, place.size, place.local_rank, place.address, place.port)
    assert found == wanted


@pytest.mark.parametrize(
    "environment", [{"RANK": "4", "WORLD_SIZE": "4"}, {"RANK": "x", "WORLD_SIZE": "2"}, {"WORLD_SIZE": "2"}]
)
def test_variables_that_contradict_each_other(environment):
    with pytest.raises(UsageError, match="CT003"):
        place_of(environment)


PRECISE = """
import json, torch
from curvtool import Hessian, Problem
from curvtool.cluster.group import join

cluster = join(60)
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.ReLU(), torch.nn.Linear(7, 3))
problem = Problem(model, (torch.randn(41, 5), torch.randint(0, 3, (41,))))
operator = Hessian(problem, cluster=cluster)
noises = cluster.gather_objects(operator.noise)
whole = torch.linspace(-1, 1, operator.space.dim)
vector = operator.space.part(whole)
assert operator.precise_matvec(vector) is None
operator.num_products = 20
found = operator.space.whole(operator.precise_matvec(vector))
exact = Hessian(problem.restricted(range(41), torch.float64)).materialize() @ whole.double()
usual = operator.space.whole(operator.matvec(vector))
print(json.dumps([noises, float((found - exact).norm()), float((usual - exact).norm()), str(found.dtype)]))
cluster.close()
"""


@pytest.mark.parametrize("size", [1, 3])
def test_the_product_in_float64_over_all_ranks(size):
    with Ranks(size, "-c", PRECISE, command=(sys.executable,)) as ranks:
        statuses, out, said = ranks.ended()
    assert statuses == [0] * size, said
    noises, gap, usual, dtype = json.loads(out.splitlines()[-1])
    assert len(set(noises)) == 1 and noises[0] < 1e-5
    assert gap < 1e-13 < usual < 1e-5 and dtype == "torch.float64"
