"""Beside the peers: the same values where they are right, and the right ones where they are not."""

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from cases import CASES

from curvtool import Hessian, MatrixOperator, Problem, density, eigenvalues, trace
from curvtool.problem.as_module import ProblemModule, mean_loss


def data(num=100, classes=3):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(num, 5, generator=generator), torch.randint(0, classes, (num,), generator=generator)


def network(width=6):
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(5, width), torch.nn.Tanh(), torch.nn.Linear(width, 3))


def pyhessian(problem, batches):
    made = pytest.importorskip("pyhessian").hessian
    torch.manual_seed(0)
    given = {"data": batches[0]} if len(batches) == 1 else {"dataloader": batches}
    return made(ProblemModule(problem), mean_loss(problem), cuda=False, **given)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_same_as_arpack(case):
    hessian = Hessian(case.problem(), batch_size=3)
    dim = hessian.space.dim
    product = scipy.sparse.linalg.LinearOperator(
        (dim, dim), matvec=lambda v: (hessian @ torch.from_numpy(v).reshape(-1)).numpy(), dtype=np.float64
    )
    for which, name in (("la", "LA"), ("sa", "SA"), ("lm", "LM")):
        theirs = scipy.sparse.linalg.eigsh(product, k=3, which=name, tol=1e-10, return_eigenvectors=False)
        ours = eigenvalues(hessian, 3, which=which, rtol=1e-10, check="full").values
        assert np.allclose(sorted(ours), sorted(theirs), rtol=1e-7, atol=1e-9 * max(abs(theirs)))


def test_the_same_as_pyhessian():
    x, y = data()
    problem = Problem(network(), (x, y))
    theirs = pyhessian(problem, [(x, y)]).eigenvalues(tol=1e-6, maxIter=500, top_n=2)[0]
    assert theirs == pytest.approx(eigenvalues(Hessian(problem), 2).values, rel=5e-3)


def test_the_same_as_curvlinops():
    linear_operator = pytest.importorskip("curvlinops").HessianLinearOperator
    x, y = data()
    model, batches = network(), [(x[i : i + 32], y[i : i + 32]) for i in range(0, 100, 32)]
    theirs = linear_operator(model, torch.nn.CrossEntropyLoss(), list(model.parameters()), batches)
    vector = torch.randn(57, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(theirs @ vector, Hessian(Problem(model, (x, y))) @ vector, rtol=1e-3, atol=1e-5)


def test_the_same_as_eigenthings():
    x, y = data()
    theirs = eigenthings(network(), [(x, y)], 2)
    assert theirs == pytest.approx(eigenvalues(Hessian(Problem(network(), (x, y))), 2).values, rel=1e-3)


def eigenthings(model, batches, k):
    lanczos = pytest.importorskip("hessian_eigenthings.algorithms.lanczos").lanczos
    from hessian_eigenthings.loss_fns import supervised_loss
    from hessian_eigenthings.operators import HessianOperator

    operator = HessianOperator(model, batches, supervised_loss(torch.nn.CrossEntropyLoss()))
    return lanczos(operator, k=k, max_iter=40).eigenvalues.tolist()


def test_a_trace_that_stops_by_chance():
    """PyHessian stops when its running mean happens to stand still, here after two probes."""
    x, y = data()
    problem = Problem(network(), (x, y))
    true = float(Hessian(problem).materialize().trace())
    made = pyhessian(problem, [(x, y)])
    stops = []
    for seed in range(20):
        torch.manual_seed(seed)
        stops.append(float(np.mean(made.trace())))
    assert max(abs(np.array(stops) / true - 1)) > 0.2
    found = trace(Hessian(problem), rtol=0.02)
    assert found.ci95[0] - 1e-5 <= true <= found.ci95[1] + 1e-5


def test_a_small_hessian(monkeypatch):
    """PyHessian adds 1e-6 to each norm that it divides by: its quadrature loses the largest eigenvalue."""
    x, y = data()
    problem = Problem(network(), (x, y), lambda z, t: 1e-6 * torch.nn.functional.cross_entropy(z, t, reduction="none"))
    true = float(torch.linalg.eigvalsh(Hessian(problem).materialize().double())[-1])

    def eig(matrix, eigenvectors):  # gone from torch since
        values, vectors = torch.linalg.eigh(matrix)
        return torch.stack([values, torch.zeros_like(values)], dim=1), vectors

    monkeypatch.setattr(torch, "eig", eig, raising=False)
    nodes, _ = pyhessian(problem, [(x, y)]).density(iter=30, n_v=1)
    assert max(nodes[0]) < 0.7 * true
    assert eigenvalues(Hessian(problem), 1).values[0] == pytest.approx(true, rel=1e-3)
    ours = density(Hessian(problem), num_probes=1, num_steps=30, method="probes")
    assert ours.quadratures[0].nodes.max() == pytest.approx(true, rel=1e-3)


def test_a_ragged_last_batch():
    """hessian-eigenthings averages the means of batches of 32, 32, 32 and 4."""
    x, y = data(100)
    x[96:] *= 5
    true = float(torch.linalg.eigvalsh(Hessian(Problem(network(), (x, y))).materialize().double())[-1])
    batches = [(x[i : i + 32], y[i : i + 32]) for i in range(0, 100, 32)]
    assert abs(eigenthings(network(), batches, 1)[0] / true - 1) > 0.5
    ours = eigenvalues(Hessian(Problem(network(), (x, y)), batch_size=32), 1)
    assert ours.values[0] == pytest.approx(true, rel=1e-3)


def test_the_two_largest_of_an_indefinite_matrix():
    """Power iteration returns the largest magnitudes, here a negative one as the second largest eigenvalue."""
    diagonal = torch.tensor([4.0, -3.0, 2.0, 1.0, 0.5])

    class Quadratic(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.theta = torch.nn.Parameter(torch.ones(5))

        def forward(self, x):
            return (0.5 * (diagonal * self.theta**2).sum()).expand(len(x), 1)

    x, y = torch.zeros(4, 1), torch.zeros(4, 1)
    problem = Problem(Quadratic(), (x, y), lambda z, t: z[:, 0])
    theirs = pyhessian(problem, [(x, y)]).eigenvalues(top_n=2, tol=1e-6, maxIter=1000)[0]
    assert theirs[1] == pytest.approx(-3.0, abs=1e-2)
    assert eigenvalues(Hessian(problem), 2, rtol=1e-6).values == pytest.approx([4.0, 2.0], rel=1e-5)


def test_a_repeated_eigenvalue_and_no_ghosts():
    """Lanczos without reorthogonalisation returns one eigenvalue many times; here each comes as often as it is."""
    values = torch.cat([torch.tensor([100.0, 100.0, 60.0]), torch.linspace(0, 1, 297)]).double()
    operator = MatrixOperator(torch.diag(values))
    found = eigenvalues(operator, 4, rtol=1e-8, check="full", block_size=2)
    assert found.values == pytest.approx([100.0, 100.0, 60.0, 1.0], rel=1e-6)
    lanczos = pytest.importorskip("hessian_eigenthings.algorithms.lanczos").lanczos

    class Theirs:
        shape, size, device, dtype = (300, 300), 300, torch.device("cpu"), torch.float64

        def matvec(self, vector):
            return operator.matrix @ vector

    theirs = lanczos(Theirs(), k=4, max_iter=120).eigenvalues.tolist()  # beyond 50 steps it does not reorthogonalise
    assert sum(abs(value - 100) < 1e-3 for value in theirs) > 2
