"""What the analyses of one loaded problem have in common, so that the later ones need not find it again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from curvtool.linalg.space import VectorSpace
from curvtool.operators.curvature import CurvatureOperator
from curvtool.operators.preflight import Preflight
from curvtool.session.cache import Cache


@dataclass(frozen=True)
class KnownPairs:
    """Eigenpairs that an analysis found.

    Attributes:
        values: eigenvalues.
        errors: their estimated errors.
        vectors: orthonormal, shape (k, size).
    """

    values: tuple[float, ...]
    errors: tuple[float, ...]
    vectors: torch.Tensor


@dataclass
class Shared:
    """Attributes:
    space: of the vectors over the parameters that take part.
    operators: the matrices made so far, with their kept graphs, by name and options.
    checks: what the preflight of each matrix found.
    loss_value: L; None until it was computed.
    grad_norm: the norm of its gradient.
    pairs: eigenpairs of each matrix, which are deflated from its trace and placed exactly in its density.
    cache: what earlier runs measured of the problem.
    as_before: the matrices whose products are those that the cache's entries are of.
    start: vectors to start the search for eigenpairs from, as those of a checkpoint before.
    """

    space: VectorSpace
    cache: Cache = field(default_factory=lambda: Cache(None))
    operators: dict[tuple[str, str], CurvatureOperator] = field(default_factory=dict)
    checks: dict[str, Preflight] = field(default_factory=dict)
    loss_value: float | None = None
    grad_norm: float | None = None
    pairs: dict[str, KnownPairs] = field(default_factory=dict)
    as_before: set[str] = field(default_factory=set)
    start: torch.Tensor | None = None

    def operator(self, name: str, options: dict[str, Any]) -> CurvatureOperator | None:
        """The matrix where it was made before; the others give up their graphs for it."""
        key = (name, repr(sorted(options.items())))
        for other, operator in self.operators.items():
            if other != key:
                operator.execution.release()
        return self.operators.get(key)

    def keep(self, name: str, options: dict[str, Any], operator: CurvatureOperator) -> None:
        """Remembers a matrix."""
        self.operators[name, repr(sorted(options.items()))] = operator
