"""XTrace: a trace from products with the whole matrix, each probe exchanged for the space of all the others."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from curvtool.critical import undisturbed
from curvtool.estimators.accuracy.noise import NOISE_OF_TRACES, Estimate
from curvtool.estimators.observer import Observer
from curvtool.linalg.intervals import Interval
from curvtool.linalg.usable import require_usable
from curvtool.operators.base import LinearOperator
from curvtool.words import counted

_FIRST_PROBES = 16
_RANK_SLACK = 64  # epsilons of a column's length, by which rounding makes it differ from those it depends on
# the estimates share their space, so that their mean errs by more than their spread foretells. On 33 spectra of 64 to
# 200 rows, 200 seeds each, the factor was 1.0 where the spectrum is flat and the probes are few, up to 1.4 where it
# decays, and more the more of the space the probes span, unless positive and negative eigenvalues cancel; leave-one-out
# estimates foretell up to 31 times too much
_BY_DECAY, _BY_SHARE = 0.4, 0.8


def _dependence(decay: float, share: float, one_sided: float) -> float:
    """By what the spread of the estimates is to be widened.

    Args:
        decay: a, where the spread of one estimate falls as n^-a in the number of probes.
        share: of the space that the probes span.
        one_sided: 1 where all eigenvalues have one sign, 0 where they cancel.
    """
    return 1.0 + _BY_DECAY * min(max(2 * decay, 0.0), 1.0) + _BY_SHARE * share * one_sided


def _look_error(look: int) -> float:
    """The error probability of the `look`-th look (from 0): 5 % over all, most of it on the first."""
    return 0.05 * 0.7 * 0.3**look


class XTrace:
    """Epperly, Tropp, Webber 2024 (SIAM J. Matrix Anal. Appl. 45(1), arXiv:2301.07825), algorithm 3.2 with normalised
    probes; two products a probe.

    With probes w_1..w_n uniform on a sphere, Q_i an orthonormal basis of the range of A times all but the i-th of them
    and y_i = (I - Q_i Q_i^T) w_i, the estimates tr(Q_i^T A Q_i) + (P - n + 1) y_i^T A y_i / ||y_i||^2 are unbiased and
    exchangeable. Their spread gives the standard error, widened by a measured factor, for they are not independent; a
    run that stops itself leans low, since a low estimate goes with a small spread (0.5 % seen at rtol 0.1).

    Args:
        operator: the matrix.
        rtol: half-width of the interval over the estimate, to reach.
        max_products: products after which it stops.
        seed: of the probes.
        observer: hears progress.
        noise: relative error of a product.
    """

    def __init__(
        self, operator: LinearOperator, rtol: float, max_products: int, seed: int, observer: Observer, noise: float
    ) -> None:
        self.noise = noise
        self.operator, self.rtol, self.seed, self.observer = operator, rtol, seed, observer
        most = max(2, min(max_products // 2, operator.space.dim))  # the caller sees to it that there are so many
        self.max_probes = most
        self.num_probes = 0
        self.interval: Interval | None = None
        self.scale = 0.0  # an estimate of ||A||_F
        self._probes = self._basis = self._images = operator.space.empty(0)
        self._triangle = np.zeros((0, 0))  # R of A W = Q R, a column a probe
        self._made_before: dict[str, Any] | None = None
        observer.ledger.resume("probes", operator, self)

    def state(self) -> dict[str, Any]:
        """The probes so far with their products; what was decided after them is decided again from them."""
        if self._made_before is not None and len(self._made_before["basis"]) > self.num_probes:
            return self._made_before
        return {"probes": self._probes, "basis": self._basis, "images": self._images, "triangle": self._triangle}

    def restore(self, state: dict[str, Any]) -> None:
        """These products are not made again."""
        self._made_before = state

    @property
    def is_narrow(self) -> bool:
        """Whether the last look's interval is as narrow as asked for."""
        return self.interval is not None and self.interval.half_width <= self.rtol * abs(self.interval.value)

    def run(self) -> None:
        """Doubles the number of probes until the interval is narrow enough or no product is left."""
        look = 0
        until = min(_FIRST_PROBES, self.max_probes)
        while True:
            self._extend(until)
            self.take_look(look)
            if self.is_narrow or until == self.max_probes:
                return
            look += 1
            until = min(2 * until, self.max_probes)

    def take_look(self, look: int) -> None:
        """The interval from the probes so far, Student's t over their estimates."""
        num = self.num_probes
        if num < 2:
            return
        estimates = self._estimates(num)
        spread = float(estimates.std(ddof=1))
        factor = _dependence(self._decay(spread), num / self.operator.space.dim, self._one_sided())
        stderr = factor * spread / math.sqrt(num)
        value = float(estimates.mean())
        # of the probes, uniform on a sphere of radius sqrt(P), the mean of ||A w||^2 is ||A||_F^2
        self.scale = float(np.linalg.norm(self._triangle)) / math.sqrt(num)
        arithmetic = NOISE_OF_TRACES * self.noise * max(abs(value), self.scale)
        estimate = Estimate(value, stderr, num - 1, arithmetic)
        half = estimate.half_width(_look_error(look))
        assert half is not None
        self.interval = Interval(value, stderr, half, num - 1, arithmetic)

    def _extend(self, until: int) -> None:
        space = self.operator.space
        probes, basis, images = (
            torch.cat([held, space.empty(until - len(held))]) for held in (self._probes, self._basis, self._images)
        )
        triangle = np.zeros((until, until))
        triangle[: self.num_probes, : self.num_probes] = self._triangle
        for i in range(self.num_probes, until):
            if self._made_before is not None and i < len(self._made_before["basis"]):
                for held, name in ((probes, "probes"), (basis, "basis"), (images, "images")):
                    held[i] = self._made_before[name][i]
                triangle[: i + 1, i] = self._made_before["triangle"][: i + 1, i]
                self._hold(i + 1, probes, basis, images, triangle)
                continue
            probe = space.normal(self.seed, 17, i)
            probes[i] = probe * (math.sqrt(space.dim) / space.norm(probe))
            vector = self.operator.matvec(probes[i])
            column = vector.new_zeros(i)
            for _ in range(2):
                part = space.coefficients(basis[:i], vector)
                vector = vector - part @ basis[:i]
                column = column + part
            rest = space.norm(vector)
            numbers = torch.cat([column, rest.reshape(1)]).to("cpu", torch.float64).numpy()
            require_usable(numbers, "a product")
            if numbers[i] <= _RANK_SLACK * space.eps * np.linalg.norm(
                numbers
            ):  # the range is spanned: any direction will do
                numbers[i] = 0.0
                vector = space.normal(self.seed, 18, i)
                for _ in range(2):
                    vector = vector - space.coefficients(basis[:i], vector) @ basis[:i]
                rest = space.norm(vector)
            basis[i] = vector / rest
            triangle[: i + 1, i] = numbers
            images[i] = self.operator.matvec(basis[i])
            self._hold(i + 1, probes, basis, images, triangle)
            self.observer.advance(2.0 * (i + 1), f"XTrace, {counted(i + 1, 'probe')}", 2.0 * (until - i - 1))

    def _hold(
        self, num: int, probes: torch.Tensor, basis: torch.Tensor, images: torch.Tensor, triangle: np.ndarray
    ) -> None:
        with undisturbed():
            self.num_probes = num
            self._probes, self._basis, self._images = probes[:num], basis[:num], images[:num]
            self._triangle = triangle[:num, :num]

    def _decay(self, spread: float) -> float:
        """a, where the spread of one estimate falls as n^-a from the first half of the probes to all of them."""
        half = self.num_probes // 2
        if half < 2 or spread == 0.0:
            return math.inf
        before = float(self._estimates(half).std(ddof=1))
        return math.log(max(before / spread, 1e-300)) / math.log(self.num_probes / half)

    def _one_sided(self) -> float:
        """|sum of the Ritz values| over the sum of their magnitudes."""
        values = np.linalg.eigvalsh(self._inside())
        whole = float(np.abs(values).sum())
        return abs(float(values.sum())) / whole if whole else 1.0

    def _inside(self) -> np.ndarray:
        """Q^T A Q, symmetric, shape (n, n)."""
        found = self._gram(self._basis, self._images)
        return (found + found.T) / 2

    def _gram(self, rows: torch.Tensor, columns: torch.Tensor) -> np.ndarray:
        found: np.ndarray = self.operator.space.gram(rows, columns).to("cpu", torch.float64).numpy()
        return found

    def _estimates(self, num: int) -> np.ndarray:
        """From the first n probes, one for each, shape (n,); from small matrices in float64 on the host."""
        space = self.operator.space
        dim = space.dim
        inner = self._inside()[:num, :num]
        weights = self._gram(self._basis[:num], self._probes[:num])  # Q^T w_i, a column a probe
        triangle = self._triangle[:num, :num]
        dual = _dual(triangle, _RANK_SLACK * space.eps)
        inside = weights - dual * (dual * weights).sum(0)  # coordinates of Q_i Q_i^T w_i
        forms = (weights * triangle).sum(0) - 2 * (inside * triangle).sum(0) + (inside * (inner @ inside)).sum(0)
        left = dim - (inside**2).sum(0)  # ||y_i||^2
        scale = (dim - num + dual.any(axis=0)) / np.maximum(left, 1e-12 * dim)
        within = np.trace(inner) - (dual * (inner @ dual)).sum(0)
        estimates: np.ndarray = within + np.where(left > 1e-9 * dim, scale * forms, 0.0)
        return estimates


def _dual(triangle: np.ndarray, slack: float) -> np.ndarray:
    """s_i, a column each: the unit vector of the columns' span that is orthogonal to every column but the i-th.

    Zero where the i-th depends on the others, as it does with more probes than the matrix has rank: the others' span
    is then the whole one.

    Args:
        triangle: R of A W = Q R, shape (n, n).
        slack: the relative rounding of a column.
    """
    lengths = np.linalg.norm(triangle, axis=0)
    left, values, right = np.linalg.svd(triangle / np.where(lengths > 0, lengths, 1.0))
    null = values <= slack * len(triangle) * values[0]
    dual: np.ndarray = (left[:, ~null] / values[~null]) @ right[~null]  # the pseudo-inverse, transposed
    independent = np.linalg.norm(right[null], axis=0) < 1e-6
    size = np.linalg.norm(dual, axis=0)
    return np.where(independent & (lengths > 0), dual / np.where(size > 0, size, 1.0), 0.0)
