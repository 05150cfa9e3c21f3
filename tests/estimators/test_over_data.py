"""What another sample of the data would change: parts that are random, the bias, the population's interval."""

import json

import numpy as np
import pytest
import torch

from curvtool import Problem
from curvtool.cluster.solo import Solo
from curvtool.estimators.accuracy.population import over_data
from curvtool.estimators.eigenvalues import eigenvalues
from curvtool.linalg.draws import shuffled
from curvtool.linalg.sketch import Sketch
from curvtool.linalg.space import VectorSpace
from curvtool.operators.base import MatrixOperator
from curvtool.operators.distribution import SharedSamples
from curvtool.operators.hessian import Hessian
from curvtool.problem.data import Data
from curvtool.problem.duplicates import copies
from curvtool.problem.scattering import part_size, parts_of, rows_in_order


def covariances(num_parts=8, num=256, width=30, seed=0):
    """Parts of a sample's covariance, with three outliers."""
    g = torch.Generator().manual_seed(seed)
    scale = torch.ones(width, dtype=torch.float64)
    scale[:3] = torch.tensor([10.0, 5.0, 3.0])
    x = (torch.randn(num, width, generator=g, dtype=torch.float64) * scale.sqrt()).view(num_parts, -1, width)
    return x.transpose(1, 2) @ x / num


def second_order(parts, rank):
    """sum_j E[(v_j E v)^2] / (lambda - lambda_j), the expectation by the spread of the parts."""
    num = len(parts)
    whole = parts.sum(0)
    values, vectors = torch.linalg.eigh(whole)
    place = len(values) - 1 - rank
    coupled = (parts - whole / num) @ vectors[:, place] @ vectors
    apart = values[place] - values
    apart[place] = torch.inf
    return float(num / (num - 1) * (coupled**2 / apart).sum())


def classifier(num, width=6, seed=0):
    g = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(width, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3)).double()
    x = torch.randn(num, width, generator=g, dtype=torch.float64)
    y = (x[:, :3] + torch.randn(num, 3, generator=g, dtype=torch.float64)).argmax(1)
    return model, x + y[:, None], y


@pytest.mark.parametrize("num", [1, 2, 15, 16, 17, 50, 1797, 5000, 20_001, 60_000])
def test_every_sample_is_in_one_part(num):
    size = part_size(num)
    assert (size == 0) == (num < 16)
    order = rows_in_order(num, torch.device("cpu"))
    assert order.sort().values.tolist() == list(range(num))
    parts = parts_of(num, size or num)
    assert parts[0].start == num and parts[-1].stop == 2 * num and sum(map(len, parts)) == num
    if size:
        assert 5 <= len(parts) <= 32
        assert all(bool((order[p.start - num : p.stop - num].diff() > 0).all()) for p in parts)


def test_the_order_is_fixed():
    assert shuffled(8).tolist() == shuffled(8).tolist() != list(range(8))
    halves = rows_in_order(1000, torch.device("cpu"))[:500].double()
    assert float(halves.mean()) == pytest.approx(500, abs=60)  # five standard errors


def test_places_beyond_the_samples_are_the_scattered_ones():
    data = Data({"x": torch.arange(40.0), "t": torch.arange(40).to(torch.uint16)}, torch.arange(40))
    inputs, targets = data.rows(50, 60)
    rows = rows_in_order(40, torch.device("cpu"))[10:20]
    assert inputs["x"].tolist() == targets.tolist() == inputs["t"].tolist() == rows.tolist()
    assert inputs["t"].dtype == torch.int64


def test_the_parts_hang_on_neither_the_batch_size_nor_the_order_of_the_ranks():
    model, x, y = classifier(100)
    found = []
    for size in (None, 3, 13, 100):
        operator = Hessian(Problem(model, (x, y)), batch_size=size, form="torch")
        vector = operator.space.normal(1)
        _, shares = operator.matvec_in_parts(vector, vector[None])
        assert len(shares) == 8
        found.append(torch.cat([shares[:, 0], torch.from_numpy(operator.part_weights)]))
    for each in found[1:]:
        assert torch.allclose(each, found[0], rtol=1e-10)


class Rank:
    """One of three, as far as samples are shared out."""

    size = 3

    def __init__(self, rank):
        self.rank = rank

    def share(self, number):
        return range(number * self.rank // 3, number * (self.rank + 1) // 3)


@pytest.mark.parametrize("num", [16, 100, 1000])
def test_ranks_have_their_samples_of_the_same_parts(num):
    model, x, y = classifier(num)
    alone = SharedSamples(Problem(model, (x, y)), Solo())
    whole = [{place for rows in part for place in rows} for part in alone.batches(7)]
    met = [set() for _ in whole]
    for rank in range(3):
        shared = SharedSamples.__new__(SharedSamples)
        shared.cluster, shared.num_samples, shared.keeps_order, shared._whole = Rank(rank), num, False, 1
        for part, own in zip(met, shared.batches(7), strict=True):
            part |= {place for rows in own for place in rows}
    assert met == whole


def test_order_is_kept_where_batches_are_part_of_the_quantity():
    model, x, y = classifier(100)
    problem = Problem(model, (x, y))
    problem.keeps_order = True
    operator = Hessian(problem, batch_size=30, form="torch")
    assert operator.batches == [range(30), range(30, 60), range(60, 90), range(90, 100)]
    assert operator.part_weights.tolist() == pytest.approx([0.3, 0.3, 0.3, 0.1])
    vector = operator.space.normal(1)
    assert torch.allclose(operator @ vector, Hessian(Problem(model, (x, y)), form="torch") @ vector, rtol=1e-10)


def test_sorted_labels_do_not_change_the_standard_error():
    model, x, y = classifier(400)
    order = y.argsort()
    spreads = [
        eigenvalues(Hessian(Problem(model, data), form="torch"), 1).eigenvalues[0].data_stderr
        for data in ((x, y), (x[order], y[order]))
    ]
    assert spreads[1] == pytest.approx(spreads[0], rel=0.6)  # another draw of the parts; by batches it was 4 times it


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_bias_is_that_of_perturbation_theory(rank):
    """In the whole space, where nothing lies outside."""
    parts = covariances(num_parts=64, num=64 * 40)
    values, vectors = torch.linalg.eigh(parts.sum(0))
    turned = (vectors.T @ parts @ vectors).numpy()
    told = over_data(
        values.numpy(), lambda i, j: turned[np.ix_(range(64), i, j)], np.zeros((64, 3)), np.full(64, 1 / 64), 3, "la",
        [0.0] * 3,
    )  # fmt: skip
    assert told[rank].bias == pytest.approx(second_order(parts, rank), rel=0.05, abs=1e-3)
    own = (vectors[:, -1 - rank] @ parts @ vectors[:, -1 - rank]).numpy()
    assert told[rank].stderr == pytest.approx(own.std(ddof=1) * 8)


def test_pairs_far_off_enter_to_second_order():
    """More Ritz pairs than are rotated."""
    parts = covariances(num_parts=16, num=16 * 100, width=120)
    values, vectors = torch.linalg.eigh(parts.sum(0))
    turned = (vectors.T @ parts @ vectors).numpy()
    told = over_data(
        values.numpy(), lambda i, j: turned[np.ix_(range(16), i, j)], np.zeros((16, 1)), np.full(16, 1 / 16), 1, "la",
        [0.0],
    )  # fmt: skip
    assert told[0].bias == pytest.approx(second_order(parts, 0), rel=0.1)


@pytest.mark.parametrize("width", [30, 300])
def test_the_krylov_space_and_sketches_carry_the_bias(width):
    """A mean over samples, of a matrix much larger than the Krylov space too."""
    told, right = [], []
    for seed in range(12):
        parts = covariances(num=1024, width=width, seed=seed)
        told.append(eigenvalues(MatrixOperator(parts), 1, rtol=1e-3).eigenvalues[0].over_data.bias)
        right.append(second_order(parts, 0))
    assert np.mean(told) == pytest.approx(np.mean(right), rel=0.2)


def test_restarts_and_the_smallest():
    parts = -covariances(seed=3)
    first = eigenvalues(MatrixOperator(parts), 2, which="sa", rtol=1e-6).eigenvalues
    again = eigenvalues(MatrixOperator(parts), 2, which="sa", rtol=1e-6, max_basis=8).eigenvalues
    for one, other in zip(first, again, strict=True):
        assert one.over_data.bias < 0  # the smallest of a sample lies below that of the population
        assert one.over_data.bias == pytest.approx(other.over_data.bias, rel=0.5)
        assert one.over_data.population.low < one.value - one.over_data.bias < one.over_data.population.high


@pytest.mark.parametrize("dim", [1, 5, 64, 1000])
def test_sketches_keep_norms(dim):
    space = VectorSpace(dim, torch.float64, torch.device("cpu"))
    vector = space.normal(1)
    sketch = Sketch(space)(vector)
    assert len(sketch) == min(dim, 64)
    assert float(sketch @ sketch) == pytest.approx(float(vector @ vector), rel=1e-12 if dim <= 64 else 0.6)


def test_sketches_of_parts_are_those_of_a_dense_matrix():
    model, x, y = classifier(100)
    operator = Hessian(Problem(model, (x, y)), form="torch")
    vector, sketch = operator.space.normal(1), Sketch(operator.space)
    _, shares = operator.matvec_in_parts(vector, vector[None], sketch)
    assert shares.shape == (8, 1 + sketch.size)
    assert torch.allclose(shares[:, 1:].sum(0), sketch(operator @ vector), rtol=1e-8, atol=1e-12)


def test_a_full_check_keeps_the_interval_and_locked_vectors_have_none():
    parts = covariances(num=1024)
    found = eigenvalues(MatrixOperator(parts), 2, rtol=1e-6)
    full = eigenvalues(MatrixOperator(parts), 2, rtol=1e-6, check="full")
    for one, other in zip(found.eigenvalues, full.eigenvalues, strict=True):
        assert other.over_data.population.value == pytest.approx(one.over_data.population.value, rel=1e-3)
    rest = eigenvalues(MatrixOperator(parts), 1, deflated=found.vectors).eigenvalues[0]
    assert rest.over_data.stderr > 0 and rest.over_data.population is None and rest.over_data.reason


@pytest.mark.parametrize("num_parts", [1, 3])
def test_few_parts_tell_nothing(num_parts):
    assert eigenvalues(MatrixOperator(covariances(num_parts, 240)), 1).eigenvalues[0].over_data is None


def test_equal_parts_have_no_spread():
    pair = eigenvalues(MatrixOperator(covariances(1)[0].expand(8, -1, -1) / 8), 1).eigenvalues[0]
    assert pair.over_data.stderr <= 1e-12 and abs(pair.over_data.bias) <= pair.error_bound


def test_a_part_without_weight_is_left_out():
    operator = MatrixOperator(torch.cat([covariances(), torch.zeros(1, 30, 30, dtype=torch.float64)]))
    weighted = type("Weighted", (MatrixOperator,), {"part_weights": property(lambda _: np.array([1 / 8] * 8 + [0.0]))})
    pair = eigenvalues(weighted(operator.matrices), 1).eigenvalues[0]
    assert pair.over_data.population.degrees == 7
    assert pair.data_stderr == pytest.approx(eigenvalues(MatrixOperator(covariances()), 1).eigenvalues[0].data_stderr)


@pytest.mark.parametrize("times", [1, 2, 5])
def test_copies_are_counted(times):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(60, 3, generator=g).sign() * torch.arange(1, 61)[:, None]  # rows that differ in few bits
    data = Data({"x": x.repeat(times, 1)}, torch.arange(60).repeat(times))
    found = copies(data)
    assert found.num_copies == 60 * (times - 1) and found.factor == pytest.approx(times**0.5)


def test_rows_alike_but_for_their_target_are_no_copies():
    assert copies(Data(torch.zeros(10, 3), torch.arange(10))).num_copies == 0
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 8)
    assert copies(Data(signs)).num_copies == 0


def test_the_report_and_the_terminal_say_which_number_is_which(run, tmp_path):
    report = tmp_path / "report.json"
    status, out, err = run("eigs", "demo:digits", "-k", "1", "--num-samples", "200", "-o", str(report))
    assert status == 0, err
    found = json.loads(report.read_text())
    pair = found["analyses"][0]["eigenvalues"][0]
    known = pair["population"]
    assert known["low"] < known["value"] < known["high"] and known["degrees"] == 7
    assert known["value"] == pytest.approx(pair["value"] - pair["data_bias"])
    assert "Estimate for the population of the data:" in " ".join(out.split())
    assert not [warning for warning in found["warnings"] if warning["code"] != "CT238"]


def test_copied_samples_are_told(run, tmp_path):
    x, y = np.random.default_rng(0).normal(size=(40, 1, 8, 8)).astype(np.float32), np.arange(40) % 10
    np.savez(tmp_path / "data.npz", inputs=np.tile(x, (3, 1, 1, 1)), targets=np.tile(y, 3))
    report = tmp_path / "report.json"
    status, _, err = run("eigs", "demo:digits", "-k", "1", "--data", str(tmp_path / "data.npz"), "-o", str(report))
    assert status == 0, err
    told = [each["message"] for each in json.loads(report.read_text())["warnings"] if each["code"] == "CT250"]
    assert told and "80 of the 120" in told[0] and "1.7 times" in told[0]
