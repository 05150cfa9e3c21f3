"""Python's functions in float32 against the same networks in float64: every stated error beside the true one."""

import numpy as np
import torch
from torch.func import functional_call, hessian, jacrev, vmap

from curvtool import GaussNewton, Hessian, InputJacobian, Problem, density, diagonal, eigenvalues, jacobian_norms, trace
from curvtool.estimators.density_result import Spectrum
from curvtool.estimators.trace_by_probes import Blocks

PASSES = 8  # with which float32 and float64 are compared: the same probes in both
STEPS = 8  # of Lanczos, of a density by probes


def dense(model, x, y, loss, kind):
    """The matrix in float64, by torch.func alone, shape (P, P)."""
    parameters = {name: p.detach().double() for name, p in model.named_parameters()}
    sizes = [p.numel() for p in parameters.values()]
    x, y = x.double(), y.double() if y.is_floating_point() else y
    of = {
        "cross-entropy": torch.nn.functional.cross_entropy,
        "mse": torch.nn.functional.mse_loss,
        "bce-with-logits": torch.nn.functional.binary_cross_entropy_with_logits,
    }[loss]
    flat = torch.cat([p.reshape(-1) for p in parameters.values()])

    def outputs(vector):
        parts = vector.split(sizes)
        named = {name: part.view_as(p) for part, (name, p) in zip(parts, parameters.items(), strict=True)}
        return functional_call(model, named, (x,))

    if kind is Hessian:
        found = hessian(lambda vector: of(outputs(vector), y))(flat)
    else:
        rows = jacrev(outputs)(flat)
        middle = output_hessians(outputs(flat), loss)
        found = torch.einsum("ncp,ncd,ndq->pq", rows, middle, rows) / len(x)
    return (found + found.T) / 2


def output_hessians(z, loss):
    """Of each sample's loss over its outputs z, shape (n, C, C), without a difference: saturated ones keep digits."""
    n, width = z.shape
    if loss == "mse":
        return torch.eye(width, dtype=z.dtype).expand(n, -1, -1) * 2 / width
    if loss == "bce-with-logits":
        return torch.diag_embed(z.sigmoid() * (-z).sigmoid()) / width
    p = z.softmax(1)
    others = -p[:, :, None] * p[:, None, :] * (1 - torch.eye(width, dtype=z.dtype))
    return others - torch.diag_embed(others.sum(2))


class Comparison:
    """One network's matrix: Hessian or Gauss-Newton, by turns.

    Attributes:
        found: (call, true error, stated error), a row a number.
    """

    def __init__(self, seed, model, x, y, loss):
        self.seed, self.model, self.x, self.found = seed, model, x, []
        self.problem = Problem(model, (x, y), loss)
        kind = GaussNewton if seed % 2 else Hessian
        self.is_semidefinite = kind is GaussNewton
        self.operator = kind(self.problem)
        self.wide = kind(self.problem.restricted(range(len(x)), torch.float64), mode="kept", form="torch")
        self.matrix = dense(model, x, y, loss, kind)
        self.true = torch.linalg.eigvalsh(self.matrix)

    def note(self, call, errors, stated):
        errors, stated = np.broadcast_arrays(np.asarray(errors, dtype=float), np.asarray(stated, dtype=float))
        self.found += [(call, float(e), float(s)) for e, s in zip(errors.ravel(), stated.ravel(), strict=True)]

    def interval(self, call, true, low, high):
        """As an error of the middle against the half width."""
        true, low, high = (np.asarray(each, dtype=float) for each in (true, low, high))
        self.note(call, np.abs(true - (low + high) / 2), (high - low) / 2)

    def pairs(self, call, **arguments):
        result = eigenvalues(self.operator, **arguments)
        near = [float((self.true - pair.value).abs().min()) for pair in result.eigenvalues]
        self.note(call, near, [pair.error_bound for pair in result.eigenvalues])

    def eigenvalues(self):
        k = min(3, len(self.true))
        self.pairs("eigenvalues", k=k, which="sa" if self.seed % 5 == 4 else "la")
        turn = self.seed % 6
        if turn == 0 and len(self.true) > 1:
            self.pairs("eigenvalues be", k=1, which="be")
        elif turn == 1:
            self.pairs("eigenvalues lm", k=k, which="lm")
        elif turn == 2:
            self.pairs("eigenvalues power", k=1, method="power", rtol=1e-2, max_passes=100)
        elif turn == 3:
            self.pairs("eigenvalues full check", k=min(k, 2), check="full")

    def traces(self):
        exact = trace(self.operator, method="exact")
        self.interval("trace exact", float(self.matrix.trace()), *exact.ci95)
        blocks = Blocks([p.numel() for p in self.problem.parameters.values()], {"first": [0], "last": [-1]})
        one, other = (
            trace(each, method="hutchinson", max_passes=PASSES, blocks=blocks) for each in (self.operator, self.wide)
        )
        assert one.num_passes == other.num_passes
        self.note("trace by probes", abs(one.value - other.value), one.arithmetic)
        for name, block in one.blocks.items():
            self.note("block by probes", abs(block.value - other.blocks[name].value), block.arithmetic)

    def diagonals(self):
        exact = diagonal(self.operator, method="exact")
        self.note("diagonal exact", (exact.diagonal.double() - self.matrix.diagonal()).abs(), exact.stderr.double())
        self.note("diagonal exact, sum", abs(exact.sum - float(self.matrix.trace())), exact.arithmetic)
        one, other = (diagonal(each, method="hutchinson", max_passes=PASSES) for each in (self.operator, self.wide))
        assert one.num_passes == other.num_passes
        gap = (one.diagonal.double() - other.diagonal).abs()
        self.note("diagonal by probes", gap, one.stderr.double())
        self.note("diagonal by probes, sum", abs(one.sum - other.sum), one.arithmetic)

    def densities(self):
        values = self.true.numpy()
        exact = density(self.operator, method="exact")
        self.interval("density exact, trace", values.sum(), *exact.trace_ci95)
        for name, share in (
            ("below zero", np.mean(values < -exact.threshold)),
            ("below near", np.mean(values < -exact.near)),
            ("near zero", np.mean(np.abs(values) < exact.near)),
        ):
            mass = getattr(exact, name.replace(" ", "_"))
            slack = 1e-9  # of a share: sums of 1/P in float64
            self.interval(f"density exact, {name}", share, mass.low - slack, mass.high + slack)
        below = np.mean(values[:, None] < exact.grid, axis=0)
        self.interval("density exact, cumulative", below, exact.cumulative_low - 1e-9, exact.cumulative_high + 1e-9)
        arguments = {"method": "probes", "num_probes": 2, "num_steps": STEPS}
        one, other = (density(each, **arguments) for each in (self.operator, self.wide))
        # the probes are the same, and their own error is not what is compared
        of_probes = Spectrum(one.quadratures, one.outliers, self.operator.space.dim, one.num_probes, 0.0)
        rounding = np.ptp(one.trace_ci95) - np.ptp(of_probes.trace_interval())
        self.note("density by probes, trace", abs(one.trace - other.trace), rounding / 2)
        if self.is_semidefinite:
            for result in (exact, one):
                self.note("semidefinite, certainly below zero", result.below_zero.low > 0, 0.5)

    def norms(self):
        def one(x):
            return self.model_in_double(x[None])[0]

        rows = vmap(jacrev(one))(self.x.double()).detach()
        result = jacobian_norms(InputJacobian(self.problem))
        true = {"spectral": torch.linalg.matrix_norm(rows, 2), "frobenius": torch.linalg.matrix_norm(rows)}
        for name, norms in true.items():
            self.interval(f"Jacobian norms, {name}", norms, *getattr(result, f"{name}_interval"))

    def model_in_double(self, x):
        named = {name: p.detach().double() for name, p in self.model.named_parameters()}
        return functional_call(self.model, named, (x,))

    def all(self):
        """Every call."""
        for call in (self.eigenvalues, self.traces, self.diagonals, self.densities, self.norms):
            call()
        return self.found

    def by_turns(self):
        """Eigenvalues and norms; of the calls that take as many products as there are parameters one, by the seed."""
        self.eigenvalues()
        self.norms()
        (self.traces, self.diagonals, self.densities)[self.seed % 3]()
        return self.found

    def failures(self):
        """Those of `found` whose stated error is below the true one, or not a number."""
        return [(self.seed, *each) for each in self.found if not each[1] <= each[2]]
