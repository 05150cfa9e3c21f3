"""Jacobian norms against the dense Jacobians, exact and by probes."""

import threading

import numpy as np
import pytest
import torch
from cases import conv_batchnorm, dictionary, tied
from torch import nn

from curvtool import CurvtoolError, InputJacobian, Interrupted, Problem, jacobian_norms
from curvtool.cluster.solo import Solo


def dense_norms(jacobian):
    matrices = jacobian.materialize().double()
    return torch.linalg.matrix_norm(matrices).numpy(), torch.linalg.matrix_norm(matrices, 2).numpy()


def wide(num=40, outputs=60):
    """A smooth model of many outputs."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 30), nn.Tanh(), nn.Linear(30, outputs)).double()
    return Problem(model, torch.randn(num, 20).double(), None)


@pytest.mark.parametrize("make", [conv_batchnorm, dictionary, tied])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_exact(make, batch_size):
    model, inputs, _ = make(torch.float64)
    jacobian = InputJacobian(Problem(model, (inputs, None), None), batch_size=batch_size)
    result = jacobian_norms(jacobian)
    frobenius, spectral = dense_norms(jacobian)
    assert result.exact and result.converged and result.frobenius_stderr is None
    assert np.allclose(result.frobenius, frobenius, rtol=1e-10)
    assert np.allclose(result.spectral, spectral, rtol=1e-8)
    assert result.cost.data_passes == pytest.approx(min(jacobian.output_dim, jacobian.input_dim))


def test_small_budget_cuts_the_rows_not_the_numbers():
    problem = wide()
    whole, cut = (jacobian_norms(InputJacobian(problem, memory_budget=b)) for b in (2**30, 100_000))
    assert np.allclose(whole.spectral, cut.spectral, rtol=1e-10)


def test_many_outputs_by_lanczos_and_probes():
    jacobian = InputJacobian(wide(), batch_size=16)
    frobenius, spectral = dense_norms(jacobian)
    result = jacobian_norms(jacobian, max_exact_outputs=8, top=5)
    assert not result.exact and result.converged
    assert np.allclose(result.spectral, spectral, rtol=1e-4)
    assert np.all(np.abs(result.spectral - spectral) <= result.spectral_error + 1e-8)
    assert result.top_exact and set(result.top) == set(np.argsort(-spectral)[:5].tolist())
    listed = list(result.top)
    assert np.allclose(result.frobenius[listed], frobenius[listed], rtol=1e-10)
    assert np.all(result.frobenius_stderr[listed] == 0)


def test_probes_are_unbiased_and_their_error_is_honest():
    jacobian = InputJacobian(wide())
    frobenius, _ = dense_norms(jacobian)
    scores, squares = [], []
    for seed in range(300):
        result = jacobian_norms(jacobian, norm="frobenius", max_exact_outputs=8, top=0, seed=seed)
        scores.append((result.frobenius - frobenius) / result.frobenius_stderr)
        squares.append(result.frobenius**2)
    scores = np.stack(scores)
    assert 0.8 < scores.std() < 1.4
    error = np.stack(squares).mean(0) - frobenius**2
    assert np.all(np.abs(error) < 5 * np.stack(squares).std(0) / np.sqrt(300))


@pytest.mark.parametrize("norm", ["frobenius", "spectral"])
def test_one_norm_alone(norm):
    result = jacobian_norms(InputJacobian(wide()), norm=norm)
    assert (result.spectral is None) == (norm == "frobenius")
    assert (result.frobenius is None) == (norm == "spectral")
    key = result.spectral if norm == "spectral" else result.frobenius
    assert list(result.top) == np.argsort(-key, kind="stable")[:10].tolist()


def test_constant_output_has_norm_zero():
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(torch.ones(3))

        def forward(self, x):
            return x * 0 + self.bias

    problem = Problem(Constant(), torch.randn(5, 3), None)
    for limit in (10, 1):
        result = jacobian_norms(InputJacobian(problem), max_exact_outputs=limit)
        assert np.all(result.spectral == 0) and np.all(result.frobenius == 0)


def test_nothing_computed_is_lost():
    jacobian = InputJacobian(wide(), batch_size=10)
    exact, calls = jacobian.linearize, []

    def failing(rows):
        calls.append(rows)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return exact(rows)

    jacobian.linearize = failing
    with pytest.raises(Interrupted) as caught:
        jacobian_norms(jacobian, top=3)
    partial = caught.value.partial
    assert len(partial.spectral) == 20 and len(partial.top) == 3 and not partial.converged


def test_senseless_arguments_are_refused():
    for arguments in ({"norm": "nuclear"}, {"top": -1}):
        with pytest.raises(CurvtoolError, match="CT001"):
            jacobian_norms(InputJacobian(wide()), **arguments)


def uneven(num=80, spread=1.0, dtype=torch.float64):
    """Many outputs and inputs, whose norms differ from example to example."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(150, 30), nn.Tanh(), nn.Linear(30, 140))
    inputs = torch.randn(num, 150) * (0.2 + spread * torch.rand(num, 1))
    return Problem(model.to(dtype), inputs.to(dtype), None)


def test_the_list_of_the_largest_is_certain_and_right():
    jacobian = InputJacobian(uneven(spread=3.0), form="torch")
    frobenius, spectral = dense_norms(jacobian)
    for norm, true in (("frobenius", frobenius), ("both", spectral)):
        result = jacobian_norms(jacobian, norm=norm, top=4, max_recomputed=80)
        assert not result.exact and result.top_exact and result.top_rivals == 0
        assert result.top == tuple(np.argsort(-true)[:4].tolist())
        assert result.num_recomputed < 80
        largest = result.summary("frobenius" if norm == "frobenius" else "spectral")
        assert largest.values["max"] == pytest.approx(true.max(), rel=1e-9)
        assert largest.bounds["max"] == pytest.approx((true.max(), true.max()), rel=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_a_list_that_is_not_certain_says_which_could_belong_to_it(seed):
    jacobian = InputJacobian(uneven(spread=0.02), form="torch")
    frobenius, _ = dense_norms(jacobian)
    result = jacobian_norms(jacobian, norm="frobenius", top=3, max_recomputed=6, seed=seed)
    assert result.num_recomputed == 6 and result.top_exact and result.top_rivals > 0
    rivals = result.frobenius_estimates.rivals(result.top, result.noise)
    assert set(np.argsort(-frobenius)[:3]) <= {*result.top, *rivals.tolist()}
    largest = result.summary("frobenius")
    low, high = largest.bounds["max"]
    assert largest.values["max"] == pytest.approx(frobenius[list(result.top)].max(), rel=1e-9)
    assert low <= frobenius.max() <= high


def test_the_statistics_are_free_of_what_probes_add():
    jacobian = InputJacobian(uneven(num=60, spread=0.1), form="torch")
    frobenius, _ = dense_norms(jacobian)
    true = {
        "mean": frobenius.mean(), "std": frobenius.std(), "min": frobenius.min(), "median": np.median(frobenius),
        "p95": np.percentile(frobenius, 95), "max": frobenius.max(),
    }  # fmt: skip
    summaries = [
        jacobian_norms(jacobian, norm="frobenius", top=2, max_recomputed=8, seed=seed).summary("frobenius")
        for seed in range(25)
    ]
    for name, value in true.items():
        held = np.mean([s.bounds[name][0] - 1e-9 <= value <= s.bounds[name][1] + 1e-9 for s in summaries])
        assert held >= 0.84, name
    means = np.array([s.values["mean"] for s in summaries])
    assert abs(means.mean() - true["mean"]) < 4 * means.std() / 5
    raw = np.std([jacobian_norms(jacobian, norm="frobenius", top=0, seed=s).frobenius for s in range(5)], axis=1).mean()
    assert abs(np.mean([s.values["std"] for s in summaries]) - true["std"]) < abs(raw - true["std"]) / 2


def test_exact_statistics_are_the_plain_ones():
    jacobian = InputJacobian(wide())
    frobenius, _ = dense_norms(jacobian)
    summary = jacobian_norms(jacobian).summary("frobenius")
    assert summary.values["p95"] == pytest.approx(np.percentile(frobenius, 95), rel=1e-12)
    assert summary.values["std"] == pytest.approx(frobenius.std(), rel=1e-10)
    low, high = summary.bounds["median"]
    assert low <= np.median(frobenius) <= high and high - low < 1e-13
    assert summary.examples_stderr == pytest.approx(frobenius.std(ddof=1) / np.sqrt(len(frobenius)))


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Sigmoid, nn.GELU])
def test_float32_norms_hold_within_their_intervals(activation):
    """Saturated networks too, whose small norms are rounded the worst."""
    for seed in range(12):
        torch.manual_seed(seed)
        scale = (0.1, 1.0, 10.0)[seed % 3]
        model = nn.Sequential(nn.Linear(6, 20), activation(), nn.Linear(20, 20), activation(), nn.Linear(20, 7))
        if seed % 2:
            model.append(nn.Softmax(-1))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(scale)
        inputs = torch.randn(40, 6)
        result = jacobian_norms(InputJacobian(Problem(model, inputs, None), form="torch"), top=5)
        true = dense_norms(InputJacobian(Problem(model.double(), inputs.double(), None), form="torch"))
        for interval, norms in zip((result.frobenius_interval, result.spectral_interval), true, strict=True):
            assert np.all((interval[0] <= norms) & (norms <= interval[1]))


def test_noise_widens_every_interval(monkeypatch):
    jacobian = InputJacobian(wide())
    quiet, loud = (jacobian_norms(jacobian, noise=noise) for noise in (None, 1e-3))
    assert np.ptp(quiet.frobenius_interval, axis=0).max() < 1e-12
    half = np.ptp(loud.spectral_interval, axis=0) / 2
    assert np.all(half >= 1e-3 * loud.spectral)
    low, high = loud.summary("spectral").bounds["max"]
    assert high - low >= 2e-3 * loud.spectral.max()
    jacobian.noise = 1e-3
    assert jacobian_norms(jacobian).noise < 1e-12  # what the listed examples show is better known
    monkeypatch.setattr("curvtool.estimators.jacobian_norms.noise_over_data", lambda *_: None)
    assert jacobian_norms(jacobian).noise == loud.noise  # where they show nothing


@pytest.mark.parametrize("num,outputs", [(1, 1), (1, 5), (3, 1), (2, 2)])
def test_the_smallest_cases_by_estimates(num, outputs):
    jacobian = InputJacobian(wide(num, outputs))
    frobenius, spectral = dense_norms(jacobian)
    result = jacobian_norms(jacobian, max_exact_outputs=0, top=1)
    assert np.allclose(result.frobenius, frobenius, rtol=1e-9) and np.allclose(result.spectral, spectral, rtol=1e-9)
    assert result.frobenius_interval.shape == (2, num) and result.top_exact
    assert np.isfinite(list(result.summary("frobenius").values.values())).all()


def test_an_example_does_not_depend_on_its_batch():
    one, whole = (jacobian_norms(InputJacobian(uneven(num=7), batch_size=b, form="torch"), top=0) for b in (1, 7))
    assert np.allclose(one.frobenius, whole.frobenius, rtol=1e-9)
    assert np.allclose(one.spectral, whole.spectral, rtol=1e-9)


def test_a_list_that_takes_all_examples_leaves_no_estimate():
    jacobian = InputJacobian(uneven(num=20, spread=0.0), form="torch")
    frobenius, _ = dense_norms(jacobian)
    result = jacobian_norms(jacobian, norm="frobenius", top=3, max_recomputed=20)
    low, high = result.summary("frobenius").bounds["mean"]
    if result.num_recomputed == 20:
        assert result.top_rivals == 0 and high - low < 1e-12
    assert low - 1e-12 <= frobenius.mean() <= high + 1e-12


class OneOfTwo(Solo):
    """A rank in a thread."""

    def __init__(self, rank, barrier, shared):
        super().__init__()
        self.rank, self.size, self.barrier, self.shared = rank, 2, barrier, shared

    def gather_objects(self, value):
        self.shared[self.rank] = value
        self.barrier.wait(60)
        gathered = list(self.shared)
        self.barrier.wait(60)
        return gathered


def test_two_ranks_list_the_same_examples():
    alone = jacobian_norms(InputJacobian(uneven(num=30, spread=0.3), batch_size=4, form="torch"), top=4)
    barrier, shared, results = threading.Barrier(2), [None, None], [None, None]

    def work(rank):
        jacobian = InputJacobian(uneven_problems[rank], batch_size=4, form="torch")
        results[rank] = jacobian_norms(jacobian, top=4, cluster=OneOfTwo(rank, barrier, shared))

    uneven_problems = [uneven(num=30, spread=0.3) for _ in range(2)]
    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for found in results:
        assert found.top == alone.top and found.top_rivals == alone.top_rivals
        assert np.allclose(found.spectral, alone.spectral, rtol=1e-9)
        assert np.allclose(found.frobenius_interval, alone.frobenius_interval, rtol=1e-6)
