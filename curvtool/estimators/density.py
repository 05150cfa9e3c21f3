"""The spectral density of a symmetric operator by stochastic Lanczos quadrature."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import get_args

import numpy as np
import torch

from curvtool.errors import STOPPING, Interrupted, UsageError, cause_of
from curvtool.estimators.accuracy.noise import least_of, noise_of
from curvtool.estimators.cost import Meter
from curvtool.estimators.density_result import DensityResult, Spectrum, density_result
from curvtool.estimators.kept_steps import KeptSteps
from curvtool.estimators.observer import SILENT, Observer
from curvtool.linalg.quadrature import Quadrature, QuadraturesInStep
from curvtool.linalg.space import VectorSpace
from curvtool.linalg.usable import require_usable
from curvtool.operators.base import LinearOperator
from curvtool.vocabulary import DensityChoice
from curvtool.words import counted

_WORTH = 1.5  # times the probes' products: what knowing all eigenvalues may cost
METHODS: tuple[str, ...] = get_args(DensityChoice)
NUM_PROBES = 4
NUM_STEPS = 50
_FEWEST_STEPS = 10  # of a probe that counts where it was stopped on its way


def density(
    operator: LinearOperator,
    *,
    num_probes: int = NUM_PROBES,
    num_steps: int = NUM_STEPS,
    method: DensityChoice = "auto",
    outliers: tuple[float, ...] = (),
    outlier_vectors: torch.Tensor | None = None,
    width: float | None = None,
    near: float | None = None,
    noise: float | None = None,
    memory_budget: int = 2**32,
    seed: int = 0,
    observer: Observer = SILENT,
) -> DensityResult:
    """phi(t) = (1/P) sum_i N(t; lambda_i, width^2), estimated by v^T N(t; A, width^2) v over random unit vectors v.

    Each v gives Gauss quadrature nodes and weights by Lanczos with full reorthogonalisation (Ubaru, Chen, Saad 2017;
    Ghorbani, Krishnan, Xiao 2019, arXiv:1901.10159). Known outliers are taken out of v and put back as points of mass
    1/P. The density's band is the probes' error alone: what is narrower than `width`, or than the nodes lie apart, is
    not resolved. Every share has one 95 % interval for the matrix: what the nodes leave open (`mass_bounds`), the
    probes' sampling error by its law (`share_interval`) and rounding. The trace has one too (`Form.interval`).

    A matrix with no more rows than the probes would take products is made whole, and all its eigenvalues are computed:
    nothing random is left, and nothing needs to be known beforehand.

    Args:
        operator: the matrix.
        method: `probes`, `exact`, or `auto`: exact where that takes 1.5 times the probes' products at most, and the
            budget holds the matrix.
        num_probes: vectors v.
        num_steps: nodes, and products, of each; fewer where the budget does not hold so many vectors. Probes go in step
            where the operator gains by it (`block_width`) and the budget holds their bases.
        outliers: eigenvalues known beforehand.
        outlier_vectors: their orthonormal vectors, shape (k, P).
        width: standard deviation of the smoothing; a hundredth of the spectrum's length if None.
        near: what counts as near zero; a hundredth of the largest magnitude, to one digit, if None.
        noise: the relative error of a product, which moves an eigenvalue by up to 3 noise max|theta|; twice as far
            below zero it counts as below zero. None: as the operator knows it.
        memory_budget: bytes that the basis may take.
        seed: of the vectors v.
        observer: hears progress.

    Raises:
        UsageError: CT001, the arguments make no sense.
        Interrupted: stopped on the way; its `partial` holds the probes that were completed, or those that were on
            their way if none was.
    """
    for name, number, least in (("probes", num_probes, 1), ("steps", num_steps, 2)):
        if number < least:
            raise UsageError("CT001", f"too few {name}", expected=f"{least} or more", received=str(number))
    for name, size in (("width", width), ("near-zero", near)):
        if size is not None and not 0 < size < math.inf:
            raise UsageError("CT001", f"no such {name}", expected="above 0", received=str(size))
    if method not in METHODS:
        raise UsageError(
            "CT001", f"unknown method {method!r}", expected=", ".join(METHODS), received=method, remedy="--method auto"
        )
    if len(outliers) != (0 if outlier_vectors is None else len(outlier_vectors)):
        raise UsageError(
            "CT001", "outliers and their vectors differ in number", expected="a vector for each", received="another"
        )
    space, noise = operator.space, noise_of(operator, noise)
    if method == "exact" or (method == "auto" and is_small(space, num_probes, num_steps, memory_budget)):
        return _exactly(operator, width, near, noise, memory_budget, observer)
    deflated = outlier_vectors if outliers else None
    return _ByProbes(
        operator, num_probes, num_steps, outliers, deflated, width, near, noise, memory_budget, seed, observer
    ).result()


class _ByProbes:
    """Quadratures by Lanczos from random vectors, some of them in step."""

    def __init__(
        self,
        operator: LinearOperator,
        num_probes: int,
        num_steps: int,
        outliers: tuple[float, ...],
        deflated: torch.Tensor | None,
        width: float | None,
        near: float | None,
        noise: float,
        memory_budget: int,
        seed: int,
        observer: Observer,
    ) -> None:
        self.operator, self.num_probes, self.outliers, self.deflated = operator, num_probes, outliers, deflated
        self.width, self.near, self.noise, self.seed = width, near, noise, seed
        self.memory_budget, self.observer = memory_budget, observer
        self.meter = Meter(operator)
        self.most = operator.space.dim - len(outliers)  # steps after which nothing is left
        self.num_steps = num_steps
        self.steps = self.fitting = max(2, min(num_steps, self.most))
        self.found: list[Quadrature] = []
        self.running: list[Quadrature] = []

    def result(self) -> DensityResult:
        """The density.

        Raises:
            Interrupted: stopped on the way.
        """
        observer, ledger = self.observer, self.observer.ledger
        observer.begin("spectral density", float(self.num_probes * self.steps))
        try:
            self.fitting, together = ledger.remembered("room", None, self._room)
            for first in range(0, self.num_probes, together):
                seeds = [(self.seed, 20, probe) for probe in range(self.num_probes)[first : first + together]]
                self.found += ledger.remembered(
                    f"quadratures from {first}", self.operator, partial(self._quadratures, first, seeds)
                )
                self.running = []
        except STOPPING as error:
            stop = cause_of(error)
            # several that were on their way are as good as whole ones of fewer steps
            far = self.running if self.running and len(self.running[0].nodes) >= _FEWEST_STEPS else []
            far = self.found or far
            raise Interrupted(self._density(far, complete=False) if far else None, stop) from stop
        # a budget that cut the steps short is not what was asked for
        return self._density(self.found, complete=self.fitting == min(self.num_steps, self.most))

    def _room(self) -> list[int]:
        """Steps that fit the budget, and probes that go in step: as a run that was stopped had them."""
        affordable = self.memory_budget // max(self.operator.space.vector_bytes, 1) - 2 - len(self.outliers)
        fitting = max(2, min(self.steps, affordable))
        return [fitting, min(self.num_probes, self.operator.block_width, max(1, affordable // (fitting + 4)))]

    def _quadratures(self, first: int, seeds: Sequence[tuple[int, ...]]) -> list[Quadrature]:
        group = QuadraturesInStep(self.operator.matmat, self.operator.space, self.fitting, seeds, self.deflated)
        self.observer.ledger.resume("bases", self.operator, group)
        for running in group.steps():
            self.running = running
            done = first * self.fitting + len(running) * len(running[0].nodes)
            self.observer.advance(done, self._implied_trace(), self.num_probes * self.fitting - done)
        return group.quadratures

    def _spectrum(self, quadratures: list[Quadrature]) -> Spectrum:
        return Spectrum(quadratures, self.outliers, self.operator.space.dim, len(quadratures), self.noise)

    def _implied_trace(self) -> str:
        spectrum = self._spectrum(self.found + self.running)
        form = spectrum.trace_form()
        value = spectrum.rest * float(form.mean) + sum(self.outliers)
        return f"implied trace {value:.5g} +- {spectrum.rest * float(form.stderr):.2g}"

    def _density(self, quadratures: list[Quadrature], complete: bool = True) -> DensityResult:
        spectrum = self._spectrum(quadratures)
        spectrum = replace(spectrum, least=least_of(self.operator, float(np.abs(spectrum.nodes).max())))
        return density_result(spectrum, self.width, self.near, complete, self.meter.cost())


def is_small(space: VectorSpace, num_probes: int, num_steps: int, memory_budget: int) -> bool:
    """Whether all eigenvalues take hardly more products than the probes would, and the matrix fits the budget.

    The probes are not alone: outliers are sought before them, and their trace is compared with other probes. And all
    eigenvalues have no error but rounding.
    """
    return space.dim <= _WORTH * num_probes * num_steps and space.dim * space.whole_bytes <= memory_budget


def _exactly(
    operator: LinearOperator,
    width: float | None,
    near: float | None,
    noise: float,
    memory_budget: int,
    observer: Observer,
) -> DensityResult:
    dim, meter = operator.space.dim, Meter(operator)
    observer.begin("the whole matrix", float(dim))
    try:
        columns = KeptSteps("columns", operator, dim, f"{counted(dim, 'column')} in all", observer)
        matrix = operator.materialize(memory_budget, columns)
    except STOPPING as error:
        stop = cause_of(error)
        raise Interrupted(None, stop) from stop
    dense = matrix.to("cpu", torch.float64).numpy()
    require_usable(dense, "a product")
    nodes = np.linalg.eigvalsh((dense + dense.T) / 2)
    found = Quadrature(nodes, np.full(dim, 1 / dim), is_exact=True)
    least = least_of(operator, float(np.abs(nodes).max()))
    return density_result(Spectrum([found], (), dim, 0, noise, least), width, near, True, meter.cost())
