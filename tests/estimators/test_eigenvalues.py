"""Eigenvalues of real Hessians, the honesty of their errors, and stopping on the way."""

import numpy as np
import pytest
import torch
from cases import CASES
from oracles import dense_hessian

from curvtool import CurvtoolError, Hessian, Interrupted, MatrixOperator, Problem, eigenvalues, trace


@pytest.mark.parametrize("case", CASES, ids=str)
def test_both_ends_of_every_case(case):
    true = torch.linalg.eigvalsh(dense_hessian(case))
    operator = Hessian(case.problem(), batch_size=case.batch_size)
    result = eigenvalues(operator, 2, which="be", rtol=1e-10)
    assert result.converged
    scale = float(true.abs().max())
    assert np.allclose(result.values, [true[-1], true[-2], true[1], true[0]], rtol=1e-8, atol=1e-12 * scale)
    for pair in result.eigenvalues:
        assert float((true - pair.value).abs().min()) <= pair.error_bound + 1e-12 * scale


@pytest.mark.parametrize("case", CASES, ids=str)
def test_float32(case):
    true = torch.linalg.eigvalsh(dense_hessian(case)).flip(0)[:2].numpy()
    result = eigenvalues(Hessian(case.problem(torch.float32), batch_size=case.batch_size), 2, rtol=1e-5)
    assert np.allclose(result.values, true, rtol=1e-4, atol=1e-5 * abs(true).max())


@pytest.mark.parametrize("case", CASES[:6], ids=str)
def test_power_iteration_keeps_the_sign(case):
    true = torch.linalg.eigvalsh(dense_hessian(case))
    top = true[torch.argsort(-true.abs())][:2].numpy()
    result = eigenvalues(Hessian(case.problem()), 2, method="power", rtol=1e-7, max_passes=20000)
    assert result.converged and result.which == "lm"
    assert np.allclose(result.values, top, rtol=1e-6)


@pytest.mark.parametrize("rtol", [0.3, 1e-2])
def test_power_iteration_tells_what_deflation_with_inexact_vectors_does(rtol):
    """Later vectors are made orthogonal to earlier ones that are off by the tolerance: the error must hold that too."""
    checked = 0
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        values = torch.rand(12, generator=generator, dtype=torch.float64) * 3 - 1
        operator = spectrum(values, seed)
        result = eigenvalues(operator, 4, method="power", rtol=rtol, max_passes=2000, seed=seed)
        for pair in result.eigenvalues:
            assert float((values - pair.value).abs().min()) <= pair.error_bound
            checked += pair.converged
        gaps = operator.matvec(result.vectors[-1]) - result.eigenvalues[-1].value * result.vectors[-1]
        assert float(gaps.norm()) == pytest.approx(result.eigenvalues[-1].residual_norm, rel=1e-6, abs=1e-14)
    assert checked > 100


def test_an_absolute_tolerance_is_enough_for_zeros():
    generator = torch.Generator().manual_seed(0)
    values = torch.cat([torch.zeros(40), torch.rand(60, generator=generator) ** 8 + 1e-7])
    operator = spectrum(values, 0)
    assert not eigenvalues(operator, 1, which="sa", max_passes=30, max_basis=10).converged
    found = eigenvalues(operator, 1, which="sa", max_passes=30, max_basis=10, atol=0.01)
    assert found.converged and abs(found.values[0]) <= found.eigenvalues[0].error_bound <= 0.01


@pytest.mark.parametrize("method", ["lanczos", "power"])
@pytest.mark.parametrize("check", ["fast", "full", "none"])
def test_what_rounding_keeps_above_the_tolerance_has_not_converged(method, check):
    """The solver is through with it, and its error is not what was asked for: both are said."""
    values = torch.cat([torch.tensor([100.0, 3.0, 0.02]), torch.zeros(37)])
    coarse = MatrixOperator(spectrum(values, 3).matrix.float())
    options = dict(k=3, which="lm", method=method, max_passes=3000, **({"check": check} if method == "lanczos" else {}))
    found = eigenvalues(coarse, rtol=1e-6, **options)
    unmet = [pair.unmet for pair in found.eigenvalues]
    assert found.settled and not found.converged and "rounding" in unmet and not {"rank", "products"} & set(unmet)
    for pair in found.eigenvalues:
        is_met = pair.error_bound <= 1e-6 * abs(pair.value) or abs(pair.value) <= pair.error_bound
        assert pair.converged == is_met == (pair.unmet is None)
    assert eigenvalues(coarse, rtol=0.5, **options).converged
    assert eigenvalues(spectrum(values, 3), rtol=1e-6, **options).converged
    assert eigenvalues(coarse, rtol=1e-6, atol=0.1, **options).converged


def test_a_zero_to_within_rounding_converges_and_an_open_one_does_not():
    values = torch.cat([torch.ones(3), torch.zeros(57)])
    coarse = MatrixOperator(spectrum(values, 1).matrix.float())
    assert eigenvalues(coarse, 1, which="sa", rtol=1e-6).converged
    generator = torch.Generator().manual_seed(0)
    crowded = torch.cat([torch.zeros(40), torch.rand(60, generator=generator) ** 8 + 1e-7])
    (pair,) = eigenvalues(spectrum(crowded, 0), 1, which="sa", max_passes=30, max_basis=10).eigenvalues
    assert pair.unmet == "products" and not pair.settled


def spectrum(values, seed):
    generator = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator, dtype=torch.float64))
    return MatrixOperator(q @ torch.diag(torch.as_tensor(values, dtype=torch.float64)) @ q.T)


def test_true_residuals_are_reported():
    operator = spectrum(np.geomspace(1e-4, 10, 150), 0)
    result = eigenvalues(operator, 4, rtol=1e-3)
    for pair, vector in zip(result.eigenvalues, result.vectors, strict=True):
        true = float((operator.matrix @ vector - pair.value * vector).norm())
        assert pair.residual_norm == pytest.approx(true, rel=1e-6, abs=1e-11)
    assert result.check_discrepancy < 1e-11
    check = result.cost.check_hvps
    assert check == 1 + result.certificate.check_hvps and result.cost.num_hvps == result.cost.solver_hvps + check


def test_closing_check_sees_products_that_do_not_repeat():
    operator = spectrum(np.geomspace(1e-4, 10, 150), 0)
    exact, calls = operator.matvec, []

    def drifting(vector):
        calls.append(1)
        return exact(vector) * (1 + 1e-3 * len(calls))

    operator.matvec = drifting
    result = eigenvalues(operator, 3)
    assert result.check_discrepancy > 1e-3
    assert all(pair.residual_norm > 1e-3 for pair in result.eigenvalues)


@pytest.mark.parametrize("from_gradient", [False, True])
def test_bounds_hold_and_no_leading_pair_is_missed(from_gradient):
    """Over 400 starts on networks' Hessians: every value within rtol of the eigenvalue of its rank."""
    for case in (CASES[0], CASES[4]):
        gradient = Hessian(case.problem()).loss_and_gradient()[1]
        start = (gradient / gradient.norm())[None] if from_gradient else None
        matrix = dense_hessian(case)
        true = torch.linalg.eigvalsh(matrix).flip(0)[:3].numpy()
        operator = MatrixOperator(matrix)
        for seed in range(200):
            result = eigenvalues(operator, 3, rtol=1e-3, seed=seed, start=start)
            assert result.converged
            assert np.all(np.abs(np.array(result.values) - true) <= 1e-3 * np.abs(true) + 1e-12), seed


def test_what_did_not_converge_says_so():
    operator = spectrum(np.linspace(0, 1, 300), 0)
    result = eigenvalues(operator, 5, max_passes=8)
    assert not result.converged and not any(pair.converged for pair in result.eigenvalues)
    assert len(result.eigenvalues) == 5
    assert eigenvalues(operator, 5, max_passes=2).eigenvalues  # fewer products than pairs: what there is


def test_error_follows_the_tolerance():
    operator = spectrum(np.geomspace(1e-6, 1, 400), 3)
    products = [eigenvalues(operator, 3, rtol=rtol).cost.solver_hvps for rtol in (1e-2, 1e-5, 1e-10)]
    assert products[0] < products[1] < products[2]


def test_seed_decides_everything():
    operator = spectrum(np.geomspace(1e-4, 10, 100), 0)
    first, again, other = (eigenvalues(operator, 3, seed=seed) for seed in (1, 1, 2))
    assert first.values == again.values
    assert first.values != other.values


@pytest.mark.parametrize(
    "arguments",
    [
        {"k": 0},
        {"k": 101},
        {"which": "xx"},
        {"method": "qr"},
        {"rtol": 0.0},
        {"rtol": 1.0},
        {"atol": -1.0},
        {"method": "power", "which": "la"},
        {"k": 51, "which": "be"},
    ],
)
def test_senseless_arguments_are_refused(arguments):
    with pytest.raises(CurvtoolError) as caught:
        eigenvalues(spectrum(np.ones(100), 0), **arguments)
    assert caught.value.exit_status == 2 and caught.value.expected


@pytest.mark.parametrize("method", ["lanczos", "power"])
@pytest.mark.parametrize("stop", [KeyboardInterrupt(), CurvtoolError("CT040", "out of memory")])
def test_nothing_computed_is_lost(method, stop):
    operator = spectrum(np.concatenate([np.geomspace(1e-4, 1, 100), [30.0, 10.0]]), 0)
    exact, calls = operator.matvec, []

    def failing(vector):
        calls.append(1)
        if len(calls) > 9:
            raise stop
        return exact(vector)

    operator.matvec = failing
    with pytest.raises(Interrupted) as caught:
        eigenvalues(operator, 3, method=method, rtol=1e-12)
    assert caught.value.cause is stop
    assert caught.value.partial.values[0] == pytest.approx(30.0, rel=1e-2)
    assert not caught.value.partial.converged


@pytest.mark.parametrize("solve", [eigenvalues, lambda a: eigenvalues(a, method="power"), trace])
def test_products_that_are_not_finite_are_told(solve):
    matrix = torch.eye(20, dtype=torch.float64)
    matrix[3, 3] = float("nan")
    with pytest.raises(Interrupted) as caught:
        solve(MatrixOperator(matrix))
    assert caught.value.cause.code == "CT054" and caught.value.cause.exit_status == 5


@pytest.mark.parametrize("max_basis", [None, 14])
@pytest.mark.parametrize("check", ["fast", "full"])
@pytest.mark.parametrize("local", [False, True])
def test_a_basis_in_half_the_memory(local, check, max_basis):
    """Its rounding stands in the residuals, and hardly in the values; rounding of vectors with few coordinates, too."""
    dim = 1000
    values = torch.cat([torch.tensor([50.0, 40, 30, 20, 10]), torch.linspace(-3, 3, dim - 5)])
    turn = torch.linalg.qr(torch.randn(dim, dim, generator=torch.Generator().manual_seed(0))).Q
    if local:
        turn = torch.linalg.qr(torch.eye(dim) + 0.03 * turn).Q
    operator = MatrixOperator(turn @ (values[:, None] * turn.T))
    values = torch.linalg.eigvalsh(operator.matrix.double()).flip(0)
    result = eigenvalues(operator, 5, basis="bfloat16", max_basis=max_basis, check=check)
    assert result.basis == "bfloat16" and result.converged
    for pair, true, vector in zip(result.eigenvalues, values[:5].tolist(), result.vectors, strict=True):
        assert abs(pair.value - true) <= pair.error_bound + pair.rounding  # which come together
        assert pair.error_bound <= 1e-3 * true
        residual = float((operator @ vector - pair.value * vector).norm())
        assert residual <= 1.01 * pair.residual_norm and pair.residual_norm < 5e-3 * 50


@pytest.mark.parametrize("most", [12, 16])
def test_a_coarse_basis_that_is_stopped_claims_little(most):
    """While the recurrence runs, and during the products that tell how good it is."""
    values = torch.cat([torch.tensor([50.0, 40, 30, 20, 10]), torch.linspace(-3, 3, 195)])

    class Stopping(MatrixOperator):
        def matvec(self, vector):
            if self.num_products >= most:
                raise KeyboardInterrupt
            return super().matvec(vector)

    with pytest.raises(Interrupted) as caught:
        eigenvalues(Stopping(torch.diag(values)), 5, basis="bfloat16")
    partial = caught.value.partial
    assert not partial.converged and not any(pair.converged for pair in partial.eigenvalues)
    assert all(pair.error_bound >= 2**-8 * 50 * 0.9 for pair in partial.eigenvalues)


def test_unknown_places_for_the_basis_are_refused():
    operator = MatrixOperator(torch.eye(8))
    for arguments in ({"basis": "disk"}, {"basis": "host", "method": "power"}):
        with pytest.raises(CurvtoolError, match="CT001"):
            eigenvalues(operator, 1, **arguments)


@pytest.mark.parametrize("after", [3, 7, 11, 12, 13])
def test_an_interruption_between_a_product_and_its_ritz_pairs_loses_nothing(monkeypatch, after):
    """Also right after a restart, when the space is smaller than the pairs that were looked at last."""
    from curvtool.linalg.lanczos import Lanczos

    x, y = torch.randn(60, 5), torch.randint(0, 3, (60,))
    hessian = Hessian(Problem(torch.nn.Linear(5, 3), (x, y)), batch_size=10)
    made, whole = 0, Lanczos.step

    def step(self, keep):
        nonlocal made
        made += 1
        found = whole(self, keep)
        if made == after:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(Lanczos, "step", step)
    with pytest.raises(Interrupted) as caught:
        eigenvalues(hessian, 3, rtol=1e-13, max_basis=10)
    found = caught.value.partial
    assert len(found.eigenvalues) == 3 and found.vectors.shape == (3, 18)
    for pair, vector in zip(found.eigenvalues, found.vectors, strict=True):
        residual = float((hessian @ vector - pair.value * vector).norm())
        assert residual <= pair.residual_norm + 1e-5


def test_an_interruption_waits_for_the_end_of_a_section():
    from curvtool.critical import hold, undisturbed

    done = []
    with pytest.raises(KeyboardInterrupt), undisturbed():
        with undisturbed():
            assert hold()
            done.append("inner")
        done.append("outer")
    assert done == ["inner", "outer"] and not hold()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("block_size", [1, 2])
def test_a_start_that_vanishes_is_replaced(seed, block_size):
    """In one dimension the random part may be the opposite of the start; given vectors may be zero or cancel."""
    one = MatrixOperator(torch.tensor([[2.5]], dtype=torch.float64))
    assert eigenvalues(one, 1, start=torch.ones(1, 1, dtype=torch.float64), seed=seed).values == [2.5]
    matrix = MatrixOperator(torch.diag(torch.arange(1.0, 6.0, dtype=torch.float64)))
    unit = torch.eye(5, dtype=torch.float64)[:1]
    for start in (torch.cat([unit, -unit]), torch.zeros(1, 5, dtype=torch.float64), torch.cat([unit, unit])):
        found = eigenvalues(matrix, 2, start=start, seed=seed, block_size=block_size).values
        assert found == pytest.approx([5.0, 4.0])
