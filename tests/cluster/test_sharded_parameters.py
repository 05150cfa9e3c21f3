"""Parameters in pieces on several ranks: one process' numbers, and less memory a rank."""

import json
import sys
import textwrap

import pytest
import torch
from ranks import Ranks
from test_ranks import same

from curvtool.config.resolve import resolve_all
from curvtool.session.run import run_all

MODELS = """\
import torch
import torch.nn as nn
import torch.nn.functional as F


class Block(nn.Module):
    def __init__(self, d, heads):
        super().__init__()
        self.heads = heads
        self.n1, self.n2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, x):
        n, t, d = x.shape
        q, k, v = (z.view(n, t, self.heads, -1).transpose(1, 2) for z in self.qkv(self.n1(x)).chunk(3, -1))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(n, t, d)
        x = x + self.out(attended)
        return x + self.down(F.gelu(self.up(self.n2(x))))


class GPT(nn.Module):
    def __init__(self, d, heads, layers, words, length):
        super().__init__()
        self.embed, self.places = nn.Embedding(words, d), nn.Embedding(length, d)
        self.blocks = nn.ModuleList([Block(d, heads) for _ in range(layers)])
        self.norm, self.head = nn.LayerNorm(d), nn.Linear(d, words, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        h = self.embed(x) + self.places(torch.arange(x.shape[1], device=x.device))
        for block in self.blocks:
            h = block(h)
        return self.head(self.norm(h))


def small():
    return GPT(12, 2, 1, 11, 5)


def deep(layers):
    return GPT(384, 4, layers, 100, 8)


def words():
    drawn = torch.randint(0, 11, (9, 6), generator=torch.Generator().manual_seed(0))
    return drawn[:, :-1], drawn[:, 1:]
"""
RUNS = """\
[model]
checkpoint = "small.pt"
factory = "gpts:small"
[data]
source = "gpts:words"
batch_size = 5
[compute]
dtype = "float64"
operations = "torch"
hvp = "{hvp}"
device = "cpu"
[[analysis]]
kind = "eigs"
k = 2
rtol = 1e-2
[[analysis]]
kind = "eigs"
k = 1
operator = "ggn"
rtol = 1e-2
[[analysis]]
kind = "trace"
method = "hutchinson"
max_passes = 2
per_layer = true
[[analysis]]
kind = "trace"
method = "deflated"
rank = 2
max_passes = 4
[[analysis]]
kind = "diag"
method = "hutchinson"
max_passes = 2
[[analysis]]
kind = "density"
probes = 1
steps = 3
outliers = 1
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "gpts.py").write_text(MODELS)
    monkeypatch.syspath_prepend(str(tmp_path))
    import gpts

    torch.manual_seed(0)
    torch.save(gpts.small().state_dict(), tmp_path / "small.pt")
    yield tmp_path
    sys.modules.pop("gpts")


@pytest.mark.parametrize(("size", "hvp"), [(2, "fresh"), pytest.param(4, "kept", marks=pytest.mark.slow)])
def test_the_numbers_of_one_process(size, hvp, folder):
    """Also of ranks without a sample in some batches and groups."""
    file = folder / "runs.toml"
    file.write_text(RUNS.format(hvp=hvp))
    wanted = json.loads(run_all(resolve_all({}, config_file=str(file), environment={})).report.model_dump_json())
    with Ranks(size, "run", file, "--shard-parameters", "--json", folder / "r.json", folder=folder) as ranks:
        statuses, _, said = ranks.ended(timeout=1500)
    assert statuses == [0] * size, said
    same(json.loads((folder / "r.json").read_text())["analyses"], wanted["analyses"])


def test_uneven_shares_with_kept_graphs(folder):
    """Ranks with two samples and with three, with and without samples of a group: the same collectives on each."""
    words = ["trace", "small.pt", "--factory", "gpts:small", "--data", "gpts:words", "--dtype", "float64", "--json"]
    words += ["r.json", "--method", "hutchinson", "--max-passes", "2", "--hvp", "kept", "--device", "cpu"]
    with Ranks(1, *words, folder=folder) as alone:
        assert alone.ended()[0] == [0]
    wanted = json.loads((folder / "r.json").read_text())["analyses"]
    with Ranks(4, *words, "--shard-parameters", "--rank-timeout", "60", folder=folder) as ranks:
        statuses, _, said = ranks.ended(timeout=300)
    assert statuses == [0] * 4, said
    same(json.loads((folder / "r.json").read_text())["analyses"], wanted)


def test_what_it_does_not_go_with(folder):
    words = ["small.pt", "--factory", "gpts:small", "--data", "gpts:words", "--shard-parameters"]
    for command, told in ((["jacnorm", *words], "jacnorm"), (["eigs", *words, "--hvp", "forward"], "--hvp forward")):
        with Ranks(2, *command, folder=folder) as ranks:
            statuses, _, said = ranks.ended()
        assert statuses == [2, 2] and told in "".join(said)


PEAK = """
import gc, json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import gpts, torch
from curvtool.cluster.group import join
from curvtool.operators.hessian import Hessian
from curvtool.operators.memory import return_freed_pages, reuse_freed_pages
from curvtool.problem.problem import Problem

cluster = join(120)
torch.manual_seed(0)
model, cut = gpts.deep(int(sys.argv[2])), cluster.size > 1
problem = Problem(model, gpts.words(), "cross-entropy", cluster=cluster, shard_parameters=cut)
del model
problem.sharded and problem.sharded.release_model()
if problem.sharded is None:
    for parameter in problem.model.parameters():
        parameter.data = parameter.data.new_empty(0)
gc.collect(); return_freed_pages()


def held(name):
    line = next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith(name))
    return int(line.split()[1]) * 1024


hessian = Hessian(problem, mode="fresh", form="torch", batch_size=1, cluster=cluster, memory_budget=2**30)
vector = hessian.space.normal(1)
hessian.matvec(vector)
return_freed_pages()
parameters = sum(p.nbytes for p in problem.parameters.values())
Path("/proc/self/clear_refs").write_text("5")
before = held("VmRSS")
hessian.matvec(vector)
out = {"above": held("VmHWM") - before, "parameters": parameters, "P": problem.num_trainable * 4}
if problem.sharded is not None:
    out["gathered"] = problem.sharded.peak_gathered_bytes
    out["largest"] = max(shape.numel() for shape in problem.shapes.values()) * 4
if cluster.is_first:
    print(json.dumps(out))
cluster.close()
"""


@pytest.mark.skipif(not __import__("os").access("/proc/self/clear_refs", 2), reason="no high-water mark to reset")
@pytest.mark.slow
@pytest.mark.parametrize(("sizes", "layers"), [((1, 2), 9), ((1, 2, 4), 12)])
def test_the_peak_of_a_rank_falls(sizes, layers, folder, monkeypatch):
    """Pieces of the parameters, of the vectors and of the result, and a few parameters at a time."""
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")  # what is freed goes back, so that what is held can be read
    found = {}
    for size in sizes:
        with Ranks(size, "-c", PEAK, folder, layers, command=(sys.executable,)) as ranks:
            statuses, out, said = ranks.ended(timeout=1500)
        assert statuses == [0] * size, said
        found[size] = json.loads(out)
    print(textwrap.indent(json.dumps(found, indent=1), "  "))
    whole = found[1]["P"]
    for size in sizes[1:]:
        told = found[size]
        assert told["parameters"] <= whole / size * 1.01
        assert told["gathered"] <= 8 * told["largest"] < whole / 3
        assert told["parameters"] + told["above"] < 0.9 * (found[size // 2]["parameters"] + found[size // 2]["above"])
