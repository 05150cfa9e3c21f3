"""What is asked of Lanczos, and where its vectors are kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import get_args

import torch

from curvtool.device import is_host
from curvtool.estimators.eigenpairs import Tolerance
from curvtool.linalg.space import VectorSpace
from curvtool.operators.memory import default_budget
from curvtool.vocabulary import Basis, Storage, Which

BASES: tuple[str, ...] = get_args(Basis)
FAILURE = 1e-3  # the probability that a certificate is wrong
SMALL_BASIS, SMALL_BASIS_BYTES = 256, 2**25
BESIDE = 6  # vectors that another random start has room for, beside a basis as large as the budget allows
_HOST = torch.device("cpu")


@dataclass(frozen=True)
class Request:
    """What is asked of the solver; see `eigenvalues` for what each means."""

    k: int
    which: Which
    rtol: float = 1e-3
    atol: float = 0.0
    vector_rtol: float | None = None
    max_passes: int = 300
    max_basis: int | None = None
    block_size: int = 1
    memory_budget: int = 2**32
    seed: int = 0
    start: torch.Tensor | None = None
    deflated: torch.Tensor | None = None
    basis: Basis = "auto"
    couplings: bool = True  # whether those with the deflated vectors count as errors
    independent_start: bool = False  # whether the start owes nothing to the seed
    noise: float = 0.0  # the relative error of a product
    failure: float = FAILURE / 2  # the probability that what the random start excludes is there; see `failure_of_look`

    @property
    def tolerance(self) -> Tolerance:
        """What the errors are held against."""
        return Tolerance(self.rtol, self.atol, self.vector_rtol)

    @property
    def num_wanted(self) -> int:
        """All pairs, of both ends for `be`."""
        return 2 * self.k if self.which == "be" else self.k


def storage_for(space: VectorSpace, request: Request) -> Storage:
    """Where the basis lies: on the device as long as the budget holds the least of it there, else on the host."""
    if request.basis != "auto":
        return request.basis
    if is_host(space.device):
        return "device"
    least = 2 * request.num_wanted + 1 + request.block_size
    needed = (max(least, request.max_basis or 0) + request.num_wanted + BESIDE) * space.vector_bytes
    return "device" if needed <= request.memory_budget or needed > _host_budget(space) else "host"


def _host_budget(space: VectorSpace) -> int:
    """What the host's memory allows each of the ranks on it, the same on all."""
    return space.cluster.least(default_budget(_HOST) // space.cluster.local_size)


def basis_size(space: VectorSpace, request: Request) -> int:
    """As many basis vectors as the budget of where they lie allows; see `vectors_within`."""
    stored, budget = _room(space, request)
    return vectors_within(stored, space.whole_bytes, replace(request, memory_budget=budget))


def room_beside(space: VectorSpace, request: Request, num_held: int) -> int:
    """As many vectors as the budget leaves beside a basis of `num_held`, and never fewer than `BESIDE`."""
    stored, budget = _room(space, request)
    return max(BESIDE, budget // max(stored, 1) - num_held - request.num_wanted - 1)


def _room(space: VectorSpace, request: Request) -> tuple[int, int]:
    """Bytes of a stored vector, and those that the budget allows where they lie."""
    storage = storage_for(space, request)
    budget = max(request.memory_budget, _host_budget(space)) if storage == "host" else request.memory_budget
    stored = space.vector_bytes * 2 // space.dtype.itemsize if storage == "bfloat16" else space.vector_bytes
    return stored, budget


def vectors_within(stored_bytes: int, whole_bytes: int, request: Request) -> int:
    """Basis vectors that the budget allows, never fewer than 2k + 2 (at each end), at most 20 + 10 of them a pair.

    Where they are small, more of them: without a restart fewer products are needed, and a small matrix is exhausted.
    """
    wanted, block = request.num_wanted, request.block_size
    affordable = request.memory_budget // max(stored_bytes, 1) - wanted - 1 - block - BESIDE
    small = min(SMALL_BASIS, SMALL_BASIS_BYTES // max(whole_bytes, 1))
    return max(2 * wanted + 1 + block, min(affordable, max(small, 20 + 10 * wanted + 5 * (block - 1))))
