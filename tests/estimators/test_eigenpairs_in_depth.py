"""Multiplicities, stragglers, starts, known pairs, and the errors of vectors and of the data."""

import numpy as np
import pytest
import torch
from cases import CASES
from oracles import dense_hessian

from curvtool import CurvtoolError, Hessian, Interrupted, MatrixOperator, Problem, eigenvalues
from curvtool.estimators.accuracy.population import data_stderr
from curvtool.estimators.eigenvalues_by_lanczos import by_lanczos
from curvtool.estimators.full_check import full_check
from curvtool.estimators.observer import SILENT
from curvtool.estimators.request import Request


def matrix_of(values, seed=0):
    generator = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator, dtype=torch.float64))
    return q @ torch.diag(torch.as_tensor(values, dtype=torch.float64)) @ q.T


REPEATED = np.concatenate([np.linspace(0, 1, 150), [9.0, 9.0, 9.0, 5.0, 4.0]])


def test_one_vector_sees_a_repeated_eigenvalue_once_and_a_fresh_start_sees_the_others():
    once = eigenvalues(MatrixOperator(matrix_of(REPEATED)), 3, rtol=1e-6, check="none")
    assert np.allclose(once.values, [9, 5, 4], rtol=1e-6) and once.cost.check_hvps == 0
    result = eigenvalues(MatrixOperator(matrix_of(REPEATED)), 3, rtol=1e-6)
    assert np.allclose(result.values, [9, 9, 9], rtol=1e-6)
    assert result.certificate.above <= 9.00001


def test_a_block_sees_an_exactly_repeated_eigenvalue():
    result = eigenvalues(MatrixOperator(matrix_of(REPEATED)), 5, rtol=1e-8, block_size=3)
    assert result.converged
    assert np.allclose(result.values, [9, 9, 9, 5, 4], rtol=1e-8)
    v = result.vectors
    assert torch.allclose(v @ v.T, torch.eye(5, dtype=v.dtype), atol=1e-10)


@pytest.mark.parametrize("block_size", [2, 3])
@pytest.mark.parametrize("case", CASES[:5], ids=str)
def test_blocks_on_every_case(case, block_size):
    true = torch.linalg.eigvalsh(dense_hessian(case))
    operator = Hessian(case.problem(), batch_size=case.batch_size)
    result = eigenvalues(operator, 2, which="be", rtol=1e-9, block_size=block_size)
    assert result.converged
    assert np.allclose(result.values, [true[-1], true[-2], true[1], true[0]], rtol=1e-8, atol=1e-11)


def test_a_full_check_finds_what_one_vector_cannot_see():
    operator = MatrixOperator(matrix_of(REPEATED))
    result = eigenvalues(operator, 3, rtol=1e-6, check="full")
    assert np.allclose(result.values, [9, 9, 9], rtol=1e-6)
    assert result.converged and result.num_missed == 2
    assert result.cost.num_hvps == result.cost.solver_hvps + result.cost.check_hvps == operator.num_products
    assert eigenvalues(operator, 3, block_size=3, check="full").num_missed == 0


@pytest.mark.parametrize("which", ["la", "sa", "lm", "be"])
def test_a_full_check_finds_a_straggler_that_the_start_does_not_hold(which):
    values = np.concatenate([np.linspace(-1, 1, 100), [8.0, 7.0, 6.0, -5.0, -9.0]])
    matrix = matrix_of(values)
    eigenvectors = torch.linalg.eigh(matrix)[1]
    hidden = eigenvectors[:, [0, -1]] if which == "be" else eigenvectors[:, [0 if which in ("sa", "lm") else -1]]
    blind = MatrixOperator(matrix - matrix @ hidden @ hidden.T)
    request = Request(2, which, rtol=1e-8)
    missing = by_lanczos(blind, request, SILENT)
    true = {"la": [8, 7], "sa": [-9, -5], "lm": [-9, 8], "be": [8, 7, -5, -9]}[which]
    assert not np.allclose(missing.values, true, rtol=1e-2)
    result = full_check(MatrixOperator(matrix), missing, request, SILENT)
    assert result.num_missed == len(hidden.T)
    assert np.allclose(result.values, true, rtol=1e-7)


def random_spectrum(seed, size=60):
    """With multiple eigenvalues and clusters among others, some large."""
    generator = torch.Generator().manual_seed(seed)
    simple = torch.randn(size, generator=generator, dtype=torch.float64).abs() ** 3
    values = torch.where(torch.rand(size, generator=generator) < 0.4, simple[torch.arange(size) // 3 * 3], simple)
    return values * torch.sign(torch.rand(size, generator=generator, dtype=torch.float64) - 0.3)


def violations(pairs, values):
    """Pairs whose error is larger than told, and how many there are."""
    distances = [(float((values - pair.value).abs().min()), pair) for pair in pairs if pair.converged]
    slack = 1e-13 * float(values.abs().max())  # the matrix itself was rounded when it was made
    return [(gap, pair) for gap, pair in distances if gap > pair.error_bound + slack], len(distances)


@pytest.mark.parametrize("rtol", [1e-1, 1e-3])
@pytest.mark.parametrize("which", ["la", "lm", "be"])
def test_the_errors_of_a_full_check_hold_for_the_pairs_it_adds(rtol, which):
    counted = missed = 0
    every_wrong = []
    for seed in range(40):
        values = random_spectrum(seed)
        result = eigenvalues(matrix_of_values(values, seed), 6, which=which, rtol=rtol, check="full", seed=seed)
        wrong, number = violations(result.eigenvalues, values)
        every_wrong += wrong
        order = torch.argsort(values, descending=True)
        if which == "lm":
            order = torch.argsort(values.abs(), descending=True)
        true = values[order[:6]] if which != "be" else torch.cat([values[order[:6]], values[order[-6:]]])
        if result.converged:
            assert np.allclose(
                np.abs(result.values), true.abs().numpy(), rtol=2 * rtol
            )  # equal magnitudes have no order
        counted, missed = counted + number, missed + result.num_missed
    # estimates: at a tolerance of a tenth 1 run in 130 to 400 stops beside a pair that lies within its residual
    assert len(every_wrong) <= (1 if rtol == 1e-1 else 0), every_wrong
    assert counted > 150 and missed > 20


@pytest.mark.parametrize("rtol", [1e-1, 1e-3])
def test_the_errors_beside_inexact_known_vectors_hold(rtol):
    wrong = counted = 0
    for seed in range(40):
        values = random_spectrum(seed)
        operator = matrix_of_values(values, seed)
        known = eigenvalues(operator, 3, rtol=rtol, seed=seed)
        result = eigenvalues(operator, 3, rtol=rtol, deflated=known.vectors, seed=seed)
        found, number = violations(result.eigenvalues, values)
        wrong, counted = wrong + len(found), counted + number
    # not one in twenty: an unseen eigenvalue in the gap (there are multiple ones here) is the bound's own supposition
    assert counted > 100 and wrong <= (0.05 if rtol > 0.01 else 0.01) * counted


def matrix_of_values(values, seed):
    generator = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator, dtype=torch.float64))
    return MatrixOperator(q @ torch.diag(values) @ q.T)


def test_true_residuals_of_a_full_check():
    operator = MatrixOperator(matrix_of(np.geomspace(1e-4, 10, 150)))
    result = eigenvalues(operator, 4, check="full")
    for pair, vector in zip(result.eigenvalues, result.vectors, strict=True):
        true = float((operator.matrix @ vector - pair.value * vector).norm())
        assert pair.residual_norm == pytest.approx(true, rel=1e-9)


def test_known_pairs_are_left_out():
    operator = MatrixOperator(matrix_of(np.concatenate([np.linspace(0, 1, 50), [9.0, 5.0, 4.0]])))
    first = eigenvalues(operator, 2, rtol=1e-10)
    rest = eigenvalues(operator, 1, rtol=1e-10, deflated=first.vectors)
    assert rest.values == pytest.approx([4.0], rel=1e-9)
    whole = eigenvalues(MatrixOperator(matrix_of([3.0, -1.0, 2.0])), 1)
    others = eigenvalues(MatrixOperator(matrix_of([3.0, -1.0, 2.0])), 2, deflated=whole.vectors, rtol=1e-10)
    assert np.allclose(others.values, [2, -1], rtol=1e-9)


def test_a_warm_start_saves_products_and_still_sees_the_rest():
    values = np.concatenate([np.geomspace(1e-3, 1, 300), [9.0, 5.0, 4.0]])
    matrix = matrix_of(values)
    cold = eigenvalues(MatrixOperator(matrix), 3, rtol=1e-8)
    warm = eigenvalues(MatrixOperator(matrix), 3, rtol=1e-8, start=cold.vectors)
    assert warm.cost.num_hvps <= cold.cost.num_hvps
    only_two = eigenvalues(MatrixOperator(matrix), 3, rtol=1e-8, start=cold.vectors[1:])
    assert np.allclose(only_two.values, [9, 5, 4], rtol=1e-7)
    block = eigenvalues(MatrixOperator(matrix), 3, rtol=1e-8, start=cold.vectors, block_size=2)
    assert np.allclose(block.values, [9, 5, 4], rtol=1e-7)


def test_vectors_reach_their_own_tolerance():
    values = np.concatenate([np.geomspace(1e-3, 1, 300), [2.0, 1.9]])
    operator = MatrixOperator(matrix_of(values))
    true = torch.linalg.eigh(operator.matrix)[1][:, [-1, -2]].T
    result = eigenvalues(operator, 2, rtol=1e-2, vector_rtol=1e-4)
    for pair, vector, other in zip(result.eigenvalues, result.vectors, true, strict=True):
        sine = float((vector - (vector @ other) * other).norm())
        assert sine <= pair.vector_error * 1.01 and pair.vector_error <= 1e-4
    assert eigenvalues(operator, 2, rtol=1e-2).cost.num_hvps < result.cost.num_hvps


@pytest.mark.parametrize("max_basis", [None, 8])
def test_data_stderr_is_the_spread_of_the_parts_own_values(max_basis):
    """Against y^T H_b y of each batch by itself, also after restarts."""
    problem = CASES[0].problem()
    operator = Hessian(problem, batch_size=2)
    result = eigenvalues(operator, 2, rtol=1e-10, max_basis=max_basis)
    for pair, vector in zip(result.eigenvalues, result.vectors, strict=True):
        own = []
        for rows in problem.ranges(2):
            part = Hessian(problem.restricted(rows, torch.float64))
            own.append(float(vector @ (part @ vector)))
        expected = np.std(own, ddof=1) / np.sqrt(len(own))  # equal batches: the standard error of a mean
        assert pair.data_stderr == pytest.approx(expected, rel=1e-6)
    full = eigenvalues(operator, 2, rtol=1e-10, check="full")
    assert [e.data_stderr for e in full.eigenvalues] == pytest.approx([e.data_stderr for e in result.eigenvalues])


def test_data_stderr_foretells_what_other_data_would_give():
    """Many data sets of one distribution: the spread of a quadratic form over them is the mean standard error."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3)).double()
    values, errors = [], []
    vector = None
    for _ in range(100):
        x = torch.randn(48, 4, dtype=torch.float64)
        operator = Hessian(Problem(model, (x, torch.randint(0, 3, (48,)))), batch_size=4, mode="fresh", memory_budget=0)
        vector = operator.space.normal(1) if vector is None else vector
        _, shares = operator.matvec_in_parts(vector, vector[None])
        values.append(float(shares.sum()))
        errors.append(float(data_stderr(shares.numpy(), operator.part_weights)[0]))
    assert np.std(values) == pytest.approx(np.mean(errors), rel=0.2)


def test_one_part_tells_no_spread():
    problem = CASES[0].problem()
    result = eigenvalues(Hessian(problem, batch_size=problem.num_samples), 2)
    assert all(pair.data_stderr is None for pair in result.eigenvalues)


@pytest.mark.parametrize(
    "arguments",
    [
        {"block_size": 0},
        {"vector_rtol": 2.0},
        {"max_basis": 3, "k": 3},
        {"check": "some"},
        {"start": torch.ones(1, 7)},
        {"deflated": torch.ones(7)},
        {"method": "power", "block_size": 2},
        {"k": 40, "deflated": torch.eye(50, dtype=torch.float64)[:11]},
    ],
)
def test_senseless_arguments_are_refused(arguments):
    with pytest.raises(CurvtoolError) as caught:
        eigenvalues(MatrixOperator(matrix_of(np.ones(50))), **arguments)
    assert caught.value.exit_status == 2


def test_an_interrupted_check_keeps_the_pairs():
    operator = MatrixOperator(matrix_of(REPEATED))
    solver = eigenvalues(operator, 3, rtol=1e-6, check="none").cost.solver_hvps
    exact, calls = operator.matvec, []

    def failing(vector):
        calls.append(1)
        if len(calls) > solver + 5:
            raise KeyboardInterrupt
        return exact(vector)

    operator.matvec = failing
    with pytest.raises(Interrupted) as caught:
        eigenvalues(operator, 3, rtol=1e-6, check="full")
    assert np.allclose(caught.value.partial.values, [9, 5, 4], rtol=1e-6)
    assert caught.value.partial.cost.check_hvps == 5


@pytest.mark.parametrize("check", ["fast", "full"])
def test_a_small_eigenvalue_carries_the_rounding_of_the_largest(check):
    generator = torch.Generator().manual_seed(3)
    for _ in range(20):
        rows = torch.randn(60, 24, generator=generator, dtype=torch.float64) * torch.logspace(0, -3, 24).double()
        exact = rows.T @ rows
        single = (rows.float().T @ rows.float()).contiguous()  # its rounding is that of its largest entries
        true = torch.linalg.eigvalsh(exact)
        found = eigenvalues(
            MatrixOperator((single + single.T) / 2), 2, which="sa", rtol=1e-4, check=check, max_basis=24
        )
        for pair, value in zip(found.eigenvalues, true, strict=False):
            assert abs(pair.value - float(value)) <= 2 * pair.error_bound
            assert pair.error_bound >= torch.finfo(torch.float32).eps * 0.9 * float(true[-1])


def test_a_matrix_too_small_for_both_ends_is_told():
    with pytest.raises(CurvtoolError, match="too small"):
        eigenvalues(MatrixOperator(torch.ones(1, 1)), 1, which="be")
