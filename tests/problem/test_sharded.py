"""Models whose parameters are cut over the ranks; run as a program, this file is one of the ranks."""

from __future__ import annotations

import copy
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from curvtool.cluster.group import join
from curvtool.cluster.solo import Solo
from curvtool.errors import DerivativeError
from curvtool.operators.products import (
    GradientGraph,
    OutputGraph,
    Parts,
    forward_over_reverse,
    push_forward,
    push_forward_with_graph,
)
from curvtool.problem.context import Differentiable
from curvtool.problem.sharded import ShardedState

NUM_SAMPLES, LENGTH, WORDS, WIDTH = 7, 5, 11, 12
CPU = torch.device("cpu")


# models


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Gpt(nn.Module):
    """Its parameters are of sizes that no number of ranks divides, one of a single number; its head is tied."""

    def __init__(self, num_layers: int = 2) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(num_layers))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, WORDS, bias=False)
        self.head.weight = self.words.weight
        self.temperature, self.few = nn.Parameter(torch.tensor(0.7)), nn.Parameter(torch.randn(3))
        self.register_buffer("shift", torch.randn(WIDTH))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.words(tokens) + self.places.weight + self.shift
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x)) * self.temperature * self.few.square().sum()


class OwnProducts(nn.Module):
    """Reads its matrices in other ways than by `F.linear`."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(WIDTH, 9)), nn.Parameter(torch.randn(9))
        self.c = nn.Parameter(torch.randn(9, WIDTH))
        self.many = nn.ParameterList([torch.randn(WIDTH), torch.randn(WIDTH, WIDTH)])
        self.empty = nn.Parameter(torch.empty(0, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = torch.addmm(self.b, x.flatten(0, 1), self.a).tanh() @ self.c
        with torch.no_grad():
            size = self.many[1].norm()  # read without a graph before it is read with one
        flat = torch.einsum("ni,ij->nj", flat, self.many[1]) / size + self.many[0].sin() + self.empty.sum()
        return torch.matmul(flat, self.c.t()[:, :WIDTH]).view(*x.shape[:2], -1).exp().log1p()


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.own = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.other = nn.MultiheadAttention(WIDTH, 3, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.own(x, x, x, need_weights=False)[0]
        return self.other(x, x.flip(1), x.cos())[0]


class Images(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(LENGTH, 4, 3)
        self.norm = nn.BatchNorm1d(4)
        self.second = nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 4, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.norm(self.first(x)).tanh())


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru = nn.LSTM(WIDTH, 4, bidirectional=True, batch_first=True), nn.GRU(8, 3, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gru(self.lstm(x)[0])[0]


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 16, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


OTHERS: dict[str, Callable[[], nn.Module]] = {
    "own products": OwnProducts,
    "attention": Attending,
    "encoder": encoder,
    "images": Images,
    "recurrent": Recurrent,
}


# a model on the ranks, and whole


class Case:
    """The same model cut over the ranks, each with samples of its own, and whole, with all samples."""

    def __init__(self, cluster: Solo, make: Callable[[], nn.Module], freeze: tuple[str, ...] = ()) -> None:
        torch.manual_seed(0)
        self.cluster, self.model = cluster, make().double().eval()
        for name, p in self.model.named_parameters():
            p.requires_grad_(name not in freeze)
        tokens = isinstance(self.model, Gpt)
        shape = (NUM_SAMPLES, LENGTH)
        self.inputs = torch.randint(WORDS, shape) if tokens else torch.randn(*shape, WIDTH, dtype=torch.float64)
        self.targets = torch.randint(WORDS, shape)
        self.state = ShardedState(self.model, cluster)
        self.names = [name for name, piece in self.state.pieces.items() if piece.requires_grad]
        self.pieces = [self.state.pieces[name] for name in self.names]
        self.wholes = [dict(self.model.named_parameters())[name] for name in self.names]
        self.vector = [torch.randn_like(p) for p in self.wholes]
        self.local = self.cut(self.vector)
        # the last rank has none left
        share = -(-NUM_SAMPLES // (cluster.size - 1)) if cluster.size > 1 else NUM_SAMPLES
        self.rows = slice(cluster.rank * share, (cluster.rank + 1) * share)
        self.weight = float(cluster.rank * share < NUM_SAMPLES)
        if not self.weight:
            self.rows = slice(0, 1)
        self.emptied = copy.deepcopy(self.model)
        for module in self.emptied.modules():  # whatever is read past the state is seen to be wrong
            for p in module.parameters(recurse=False):
                p.data.fill_(torch.nan)
        self.buffers = dict(self.emptied.named_buffers())
        self.state = ShardedState(self.emptied, cluster, self.state.pieces)
        self.pieces = [self.state.pieces[name] for name in self.names]

    def cut(self, wholes: Parts) -> list[torch.Tensor]:
        return [ShardedState.shard_of(whole, self.cluster) for whole in wholes if whole is not None]

    def output(self, parts: Any) -> torch.Tensor:
        with self.state.placed(dict(zip(self.names, parts, strict=True))):
            # to look for ties reads all parameters
            return functional_call(self.emptied, self.buffers, self.inputs[self.rows], tie_weights=False)

    def whole_output(self, parts: Any) -> torch.Tensor:
        return functional_call(self.model, dict(zip(self.names, parts, strict=True)), self.inputs)

    def loss(self, parts: Any) -> torch.Tensor:
        return self.weight * _loss(self.output(parts), self.targets[self.rows])

    def whole_loss(self, parts: Any) -> torch.Tensor:
        return _loss(self.whole_output(parts), self.targets)

    def check(self, found: Parts, expected: Parts) -> None:
        """Pieces of the ranks against whole tensors."""
        for name, piece, whole in zip(self.names, found, expected, strict=True):
            if whole is None:
                assert piece is None or not piece.any(), name
                continue
            true = ShardedState.shard_of(whole, self.cluster)
            assert piece is not None, name
            assert piece.shape == true.shape
            atol = 1e-12 * (1 + float(torch.linalg.vector_norm(whole.detach())))
            torch.testing.assert_close(piece, true, rtol=0, atol=atol, msg=name)

    def bytes_of_largest_module(self) -> int:
        modules = self.model.modules()
        return max(sum(p.nbytes for p in module.parameters(recurse=False)) for module in modules)

    def num_bytes(self) -> int:
        return sum(p.nbytes for p in self.model.parameters())


def _loss(output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    if output.shape[-1] == WORDS:
        return F.cross_entropy(output.flatten(0, 1), targets.flatten(), reduction="sum")
    return output.square().sum() + output.sin().sum()


def _hessian_of_outputs(output: torch.Tensor, tangent: torch.Tensor) -> torch.Tensor:
    p = output.softmax(-1)
    return p * (tangent - (p * tangent).sum(-1, keepdim=True))


# what every rank does


def check_hessian(cluster: Solo, case: Case | None = None) -> None:
    case = case or Case(cluster, Gpt)
    with Differentiable(CPU):
        true = GradientGraph(case.whole_loss(case.wholes), case.wholes)
        with case.state.saving():
            graph = GradientGraph(case.loss(case.pieces), case.pieces)
            case.check(graph.gradient, true.gradient)
            case.check(graph.product(case.local), true.product(case.vector))
            other = [v.cos() for v in case.vector]
            case.check(graph.product(case.cut(other), keep=False), true.product(other))


def check_hessian_by_forward_mode(cluster: Solo) -> None:
    case = Case(cluster, Gpt)
    with Differentiable(CPU), case.state.saving():
        found = forward_over_reverse(case.loss, case.pieces, case.local)
        case.check(found, GradientGraph(case.whole_loss(case.wholes), case.wholes).product(case.vector))


def check_gauss_newton(cluster: Solo) -> None:
    case = Case(cluster, Gpt)
    with Differentiable(CPU), case.state.saving():
        whole = OutputGraph(case.whole_output(case.wholes), case.wholes)
        expected = whole.vjp(_hessian_of_outputs(whole.output.detach(), whole.jvp(case.vector)))
        graph = OutputGraph(case.output(case.pieces), case.pieces)
        _, pushed = push_forward(case.output, case.pieces, case.local)
        for tangent in (graph.jvp(case.local), pushed, graph.jvp(case.local)):
            case.check(graph.vjp(case.weight * _hessian_of_outputs(graph.output.detach(), tangent)), expected)
        output, tangent = push_forward_with_graph(case.output, case.pieces, case.local)
        cotangent = case.weight * _hessian_of_outputs(output.detach(), tangent)
        case.check(OutputGraph(output, case.pieces).vjp(cotangent, keep=False), expected)


def check_frozen(cluster: Solo) -> None:
    case = Case(cluster, Gpt, freeze=("words.weight", "layers.0.up.weight", "layers.1.norm1.weight"))
    assert case.names != list(case.state.pieces)
    check_hessian(cluster, case)


def check_others(cluster: Solo) -> None:
    for name, make in OTHERS.items():
        try:
            case = Case(cluster, make)
            check_hessian(cluster, case)
            with torch.no_grad():
                case.output(case.pieces)
        except (RuntimeError, AssertionError) as error:
            raise AssertionError(name) from error


def check_memory(cluster: Solo) -> None:
    case = Case(cluster, lambda: Gpt(num_layers=5))
    largest = case.bytes_of_largest_module() + 8 * cluster.size * 2  # what fills up the last pieces
    assert case.num_bytes() > 10 * largest
    state = case.state

    def peak_of(run: Callable[[], Any]) -> float:
        state._gathered.peak_bytes = 0
        run()
        return state.peak_gathered_bytes / largest

    # one and two of the largest; gloo's threads were seen to hold a tensor or two somewhat longer
    with Differentiable(CPU), state.saving():
        assert peak_of(lambda: case.loss(case.pieces)) <= 3.1
        graph = GradientGraph(case.loss(case.pieces), case.pieces)
        assert peak_of(lambda: GradientGraph(case.loss(case.pieces), case.pieces)) <= 4.1
        assert peak_of(lambda: graph.product(case.local)) <= 4.1
        assert peak_of(lambda: OutputGraph(case.output(case.pieces), case.pieces).jvp(case.local)) <= 4.1
        assert peak_of(lambda: push_forward(case.output, case.pieces, case.local)) <= 4.1
        # the tangents of what is no matrix stay
        assert peak_of(lambda: forward_over_reverse(case.loss, case.pieces, case.local)) <= 7
        assert peak_of(lambda: push_forward_with_graph(case.output, case.pieces, case.local)) <= 7


def check_traffic(cluster: Solo) -> None:
    case = Case(cluster, lambda: Gpt(num_layers=5))

    def traffic_of(run: Callable[[], Any]) -> tuple[float, float]:
        """Gathered and reduced, in units of all parameters (of which the words' are read twice)."""
        before = copy.copy(cluster.traffic)
        run()
        gathered, scattered = cluster.traffic.gathered - before.gathered, cluster.traffic.scattered - before.scattered
        return round(gathered / case.num_bytes(), 1), round(scattered / case.num_bytes(), 1)

    padding = 0.1
    with Differentiable(CPU), case.state.saving():
        graph, outputs = [], OutputGraph(case.output(case.pieces), case.pieces)
        cotangent = torch.ones_like(outputs.output)
        for run, expected in [
            (lambda: case.loss(case.pieces), (1, 0)),
            (lambda: torch.autograd.grad(case.loss(case.pieces), case.pieces), (2, 1)),
            (lambda: graph.append(GradientGraph(case.loss(case.pieces), case.pieces)), (2, 1)),
            (lambda: graph[0].product(case.local), (3, 2)),
            (lambda: forward_over_reverse(case.loss, case.pieces, case.local), (6, 2)),
            (lambda: outputs.jvp(case.local), (3, 1)),  # of which one each is done once for all
            (lambda: outputs.jvp(case.local), (2, 0)),
            (lambda: outputs.vjp(cotangent), (1, 1)),
            (lambda: push_forward(case.output, case.pieces, case.local), (2, 0)),
            (lambda: push_forward_with_graph(case.output, case.pieces, case.local), (4, 0)),
        ]:
            found = traffic_of(run)
            assert all(abs(a - b) <= 0.3 + padding for a, b in zip(found, expected, strict=True)), (found, expected)


def check_unchanged(cluster: Solo) -> None:
    case = Case(cluster, Recurrent)
    before = {name: (id(m._parameters), id(getattr(m, "_flat_weights", 0))) for name, m in case.emptied.named_modules()}
    with pytest.raises(RuntimeError), case.state.placed():
        names = [name for name, _ in case.emptied.named_parameters()]
        assert names == list(case.state.pieces)
        raise RuntimeError
    after = {name: (id(m._parameters), id(getattr(m, "_flat_weights", 0))) for name, m in case.emptied.named_modules()}
    assert before == after
    assert torch.equal(case.state.whole(case.names[0]), case.wholes[0])


def check_functions_of_torch(cluster: Solo) -> None:
    case = Case(cluster, Gpt)
    with Differentiable(CPU):
        _, tangent = torch.func.jvp(lambda *parts: case.loss(parts), tuple(case.pieces), tuple(case.local))
        cluster.sum(tangent)
        value, pull = torch.func.vjp(lambda *parts: case.loss(parts), *case.pieces)
        true = GradientGraph(case.whole_loss(case.wholes), case.wholes)
        case.check(pull(torch.ones_like(value)), true.gradient)
        expected = sum((g * v).sum() for g, v in zip(true.gradient, case.vector, strict=True) if g is not None)
        torch.testing.assert_close(tangent, expected, rtol=1e-12, atol=1e-12)


CHECKS = {name.removeprefix("check_"): check for name, check in list(globals().items()) if name.startswith("check_")}


# the tests


class OneOfEight(Solo):
    """A rank whose seven others hold the same as it does."""

    size = 8

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        return torch.stack([tensor] * 8)

    def scatter_sum(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor[: len(tensor) // 8].clone()


class Peak(TorchDispatchMode):
    """The most bytes of what was made inside that were alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes, self._alive = 0, {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self._alive = {key: each for key, each in self._alive.items() if not each[0].expired()}
        for tensor in tree_iter(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self._alive.setdefault(storage._cdata, (StorageWeakRef(storage), storage.nbytes()))
        self.bytes = max(self.bytes, sum(size for _, size in self._alive.values()))
        return result


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def failures(request: pytest.FixtureRequest) -> dict[str, str]:
    """What failed, by the name of the check, where none failed before it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = []
    for rank in range(request.param):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": request.param, "MASTER_PORT": port}
        env = os.environ | {name: str(value) for name, value in place.items()}
        env |= {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
        root = Path(__file__).parents[2]
        env["PYTHONPATH"] = os.pathsep.join([str(root), env.get("PYTHONPATH", "")])
        command = [sys.executable, __file__]
        ranks.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    try:
        told = [process.communicate(timeout=240) for process in ranks]
    finally:
        for process in ranks:
            if process.poll() is None:
                process.kill()
                process.wait()
    done = min(out.count("done") for out, _ in told)
    if done == len(CHECKS):
        return {}
    return {list(CHECKS)[done]: "\n".join(f"rank {i}: {err[-6000:]}" for i, (_, err) in enumerate(told))}


@pytest.mark.parametrize("name", CHECKS)
def test_ranks(failures: dict[str, str], name: str) -> None:
    assert name not in failures, failures[name]


def test_no_gradients_pile_up_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "WIDTH", 96)
    case = Case(OneOfEight(), lambda: Gpt(num_layers=5))
    case.rows = slice(0, 1)
    with Differentiable(CPU), case.state.saving():
        graph = GradientGraph(case.loss(case.pieces), case.pieces)
        with Peak() as peak:
            graph.product(case.local)
    # pieces of the parameters, the vector and the product, and what a module or two take; 1.4 by torch's own products
    assert peak.bytes < 0.7 * case.num_bytes()


def test_one_process() -> None:
    check_hessian(Solo())


def test_hidden_parameters_are_refused() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].listed = [model[0].weight]
    with pytest.raises(DerivativeError, match="CT064") as refused:
        ShardedState(model, Solo())
    assert "parameters of 0 cannot" in refused.value.message
    with pytest.raises(DerivativeError, match="TorchScript"):
        ShardedState(torch.jit.script(nn.Linear(2, 2)), Solo())


def test_changes_in_place_are_told() -> None:
    state = ShardedState(nn.Linear(2, 2), Solo())
    with state.saving(), state.placed():
        x = state.model(torch.ones(1, 2)).exp()
        x.add_(1)
        with pytest.raises(RuntimeError, match="inplace operation"):
            x.sum().backward()


def main() -> None:
    cluster = join(timeout=60)
    for check in CHECKS.values():
        check(cluster)  # a rank that fails ends, and the others with it
        print("done", flush=True)
    cluster.close()


if __name__ == "__main__":
    main()
