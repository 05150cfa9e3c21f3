"""A small space in which a matrix's trace is known exactly, so that random probes need only cover its complement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from curvtool.estimators.observer import Observer
from curvtool.linalg.lanczos import Lanczos
from curvtool.linalg.ritz import RitzPairs
from curvtool.linalg.usable import require_usable
from curvtool.operators.base import LinearOperator
from curvtool.words import counted


@dataclass(frozen=True)
class KnownSpace:
    """Attributes:
    basis: orthonormal rows Q of the space of probes, shape (m, P).
    trace: tr(Q A Q^T).
    """

    basis: torch.Tensor
    trace: float

    def complement(self, vectors: torch.Tensor, operator: LinearOperator) -> torch.Tensor:
        """(I - Q^T Q) z for the rows z of (t, P)."""
        return vectors - operator.terms.space.gram(vectors, self.basis) @ self.basis


def known_space(operator: LinearOperator, method: str, num_vectors: int, seed: int, observer: Observer) -> KnownSpace:
    """`krylov_space` (for the method `deflated`) or `sketched_space`, with its vectors as those of the probes."""
    make = krylov_space if method == "deflated" else sketched_space
    basis, trace = observer.ledger.remembered("space", operator, lambda: make(operator, num_vectors, seed, observer))
    return KnownSpace(operator.terms.argument(basis), trace)


def krylov_space(
    operator: LinearOperator, num_vectors: int, seed: int, observer: Observer
) -> tuple[torch.Tensor, float]:
    """The Krylov space of a random start, a product a vector; its leading Ritz vectors hold most of a decaying
    spectrum (the quadratic forms in it are the recurrence's own, without further products).

    Returns:
        Q, shape (m, size), and tr(Q A Q^T).
    """

    def product(vector: torch.Tensor, against: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return operator.terms.whole_product(vector), against.new_empty(0, len(against))

    lanczos = Lanczos(product, operator.space, num_vectors, (seed, 15))
    observer.ledger.resume("basis", operator, lanczos)

    def never(pairs: RitzPairs, number: int) -> np.ndarray:
        raise AssertionError("the basis is as large as the number of steps")

    wanted = min(num_vectors, lanczos.dim)
    while lanczos.num_steps < wanted:
        lanczos.step(never)
        observer.advance(lanczos.num_steps, f"a space of {counted(wanted, 'vector')}", wanted - lanczos.num_steps)
    size = lanczos.size
    return lanczos.basis[:size], float(np.trace(lanczos.projected[:size, :size]))


def sketched_space(
    operator: LinearOperator, num_vectors: int, seed: int, observer: Observer
) -> tuple[torch.Tensor, float]:
    """The range of A S for random signs S: the sketch of Hutch++ (Meyer, Musco, Musco, Woodruff 2021); two products a
    vector.

    Returns:
        Q, shape (m, size), and tr(Q A Q^T).
    """
    sketch = _Sketch(operator, num_vectors, seed)
    observer.ledger.resume("sketch", operator, sketch)
    while sketch.num_drawn < num_vectors:
        sketch.add()
        left = num_vectors - sketch.num_drawn
        observer.advance(sketch.num_drawn, f"a sketch of {counted(num_vectors, 'vector')}", left)
    return sketch.basis[: len(sketch.forms)], sum(sketch.forms)


class _Sketch:
    """An orthonormal basis q_1, q_2, ... of the range of A S, and the forms q^T A q."""

    def __init__(self, operator: LinearOperator, num_vectors: int, seed: int) -> None:
        self.operator, self.seed = operator, seed
        self.basis = operator.space.empty(num_vectors)
        self.forms: list[float] = []
        self.num_drawn = 0

    def state(self) -> dict[str, Any]:
        """The vectors so far."""
        return {"basis": self.basis[: len(self.forms)], "forms": self.forms, "num_drawn": self.num_drawn}

    def restore(self, state: dict[str, Any]) -> None:
        """Puts them back."""
        self.forms, self.num_drawn = state["forms"], state["num_drawn"]
        self.basis[: len(self.forms)] = state["basis"]

    def add(self) -> None:
        """One column of S more; none of the basis where the range is spanned already."""
        space, count = self.operator.space, len(self.forms)
        vector = self.operator.terms.whole_product(space.signs(self.seed, 16, self.num_drawn)[0])
        self.num_drawn += 1
        length = space.norm(vector)
        for _ in range(2):
            vector = vector - space.coefficients(self.basis[:count], vector) @ self.basis[:count]
        rest = space.norm(vector)
        before, after = (float(x) for x in torch.stack([length, rest]).to("cpu", torch.float64))
        require_usable(before, "a product")
        if after <= 64 * space.eps * before:
            return
        self.basis[count] = vector / rest
        image = self.operator.terms.whole_product(self.basis[count])
        self.forms.append(float(space.inner(self.basis[count], image).double()))
