"""Small operators made of others: scaled, shifted, added up, deflated, restricted to some coordinates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from curvtool.errors import UsageError
from curvtool.linalg.sketch import Sketch
from curvtool.linalg.space import VectorSpace
from curvtool.operators.base import LinearOperator


class _Wrapped(LinearOperator):
    """An operator around others; it counts what they did since it was made.

    Args:
        members: the operators inside.
        space: the space of the result; that of the first member if None.
    """

    def __init__(self, members: Sequence[LinearOperator], space: VectorSpace | None = None) -> None:
        self.members = list(members)
        super().__init__(space or self.members[0].space)

    @property
    def noise(self) -> float:
        """The error of the members' products over that of the whole, which may cancel or be deflated: measured once,
        by a product with a random vector."""
        if self._noise is None:
            vector = self.space.normal(0, 7, 1)
            parts = [member.noise * float(member.space.norm(member.matvec(v))) for member, v in self._seen_by(vector)]
            error, size = sum(parts), float(self.space.norm(self.matvec(vector)))
            self._noise = error / size if size > 0 else 0.0 if error == 0 else float("inf")
        return max(self._noise, self.space.eps)

    @noise.setter
    def noise(self, measured: float | None) -> None:
        self._noise = measured

    def _seen_by(self, vector: torch.Tensor) -> list[tuple[LinearOperator, torch.Tensor]]:
        """The members, with what of a vector of this space each is multiplied by."""
        return [(member, vector) for member in self.members]

    @property
    def num_products(self) -> float:
        """The members' products."""
        return sum(member.num_products for member in self.members)

    @num_products.setter
    def num_products(self, value: float) -> None:
        """The members count."""

    @property
    def data_passes(self) -> float:
        """The members' passes."""
        return sum(member.data_passes for member in self.members)

    @data_passes.setter
    def data_passes(self, value: float) -> None:
        """The members count."""


class SumOperator(_Wrapped):
    """c_1 A_1 + c_2 A_2 + ...; its terms are all members' terms, scaled.

    Args:
        members: operators on the same space.
        factors: c; ones if None.

    Raises:
        UsageError: CT001, no member, or sizes that differ.
    """

    name = "sum"

    def __init__(self, members: Sequence[LinearOperator], factors: Sequence[float] | None = None) -> None:
        if not members or len({member.space.dim for member in members}) > 1:
            raise UsageError(
                "CT001",
                "only operators of one size can be added up",
                expected="one size",
                received=", ".join(str(member.space.dim) for member in members) or "none",
            )
        super().__init__(members)
        self.factors = [1.0] * len(members) if factors is None else list(factors)

    def _seen_by(self, vector: torch.Tensor) -> list[tuple[LinearOperator, torch.Tensor]]:
        """c_j v each."""
        return [(member, c * vector) for c, member in zip(self.factors, self.members, strict=True)]

    def matvec(self, vector: torch.Tensor) -> torch.Tensor:
        """sum_j c_j A_j v."""
        total = sum(c * member.matvec(vector) for c, member in zip(self.factors, self.members, strict=True))
        assert isinstance(total, torch.Tensor)
        return total

    def matvec_in_parts(
        self, vector: torch.Tensor, against: torch.Tensor, sketch: Sketch | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A v and its parts, where all members tell the same parts of the data apart."""
        pairs = [member.matvec_in_parts(vector, against, sketch) for member in self.members]
        total = sum(c * image for c, (image, _) in zip(self.factors, pairs, strict=True))
        assert isinstance(total, torch.Tensor)
        if len(self.part_weights) == 0:
            return total, against.new_empty(0, len(against))
        shares = sum(c * parts for c, (_, parts) in zip(self.factors, pairs, strict=True))
        assert isinstance(shares, torch.Tensor)
        return total, shares

    @property
    def part_weights(self) -> np.ndarray:
        """The members' own, where they are the same."""
        weights = [member.part_weights for member in self.members]
        alike = all(w.shape == weights[0].shape and np.allclose(w, weights[0]) for w in weights)
        return weights[0] if alike else np.empty(0)

    @property
    def num_terms(self) -> int:
        """All members' terms."""
        return sum(member.num_terms for member in self.members)

    def term_matvec(self, term: int, vector: torch.Tensor) -> torch.Tensor:
        """c_j A_jt v."""
        for factor, member in zip(self.factors, self.members, strict=True):
            if term < member.num_terms:
                return factor * member.term_matvec(term, vector)
            term -= member.num_terms
        raise IndexError(term)


class ScaledOperator(SumOperator):
    """c A.

    Args:
        operator: A.
        factor: c.
    """

    name = "scaled"

    def __init__(self, operator: LinearOperator, factor: float) -> None:
        super().__init__([operator], [factor])


class ShiftedOperator(_Wrapped):
    """A + s I; every term takes an equal share of the shift.

    Args:
        operator: A.
        shift: s.
    """

    name = "shifted"

    def __init__(self, operator: LinearOperator, shift: float) -> None:
        super().__init__([operator])
        self.operator, self.shift = operator, shift

    def matvec(self, vector: torch.Tensor) -> torch.Tensor:
        """A v + s v."""
        return self.operator.matvec(vector) + self.shift * vector

    @property
    def num_terms(self) -> int:
        """Those of A."""
        return self.operator.num_terms

    def term_matvec(self, term: int, vector: torch.Tensor) -> torch.Tensor:
        """A_t v + s/T v for T terms."""
        return self.operator.term_matvec(term, vector) + (self.shift / self.num_terms) * vector


class DeflatedOperator(_Wrapped):
    """(I - V^T V) A (I - V^T V) for orthonormal rows V: what is left of A beside known eigenvectors.

    Args:
        operator: A.
        vectors: V, shape (k, P), orthonormal.

    Raises:
        UsageError: CT001, the rows are not orthonormal, or of another length.
    """

    name = "deflated"

    def __init__(self, operator: LinearOperator, vectors: torch.Tensor) -> None:
        super().__init__([operator])
        space = operator.space
        if vectors.dim() != 2 or vectors.shape[1] != space.dim:
            raise UsageError(
                "CT001", "vectors of another size", expected=f"(k, {space.dim})", received=str(tuple(vectors.shape))
            )
        self.operator, self.vectors = operator, vectors.to(space.device, space.dtype)
        gram = space.gram(self.vectors, self.vectors)
        deviation = float((gram - torch.eye(len(gram), dtype=gram.dtype, device=gram.device)).abs().max())
        if deviation > space.eps**0.5:
            raise UsageError(
                "CT001",
                "the vectors are not orthonormal",
                expected="V V^T = I",
                received=f"a deviation of {deviation:.1e}",
                remedy="torch.linalg.qr(vectors.T).Q.T",
            )

    def _seen_by(self, vector: torch.Tensor) -> list[tuple[LinearOperator, torch.Tensor]]:
        """What lies in the complement."""
        return [(self.operator, self._project(vector))]

    def _project(self, vector: torch.Tensor) -> torch.Tensor:
        return vector - self.space.coefficients(self.vectors, vector) @ self.vectors

    def matvec(self, vector: torch.Tensor) -> torch.Tensor:
        """(I - V^T V) A (I - V^T V) v."""
        return self._project(self.operator.matvec(self._project(vector)))

    @property
    def num_terms(self) -> int:
        """Those of A."""
        return self.operator.num_terms

    def term_matvec(self, term: int, vector: torch.Tensor) -> torch.Tensor:
        """The same of a term."""
        return self._project(self.operator.term_matvec(term, self._project(vector)))


class BlockOperator(_Wrapped):
    """A restricted to some coordinates: the diagonal block of a layer or of a group of parameters.

    A matrix over fewer parameters (`Problem.with_parameters`) has the same numbers and costs less; this one takes any
    coordinates of any operator.

    Args:
        operator: A.
        index: the coordinates, shape (n,), without repetition.

    Raises:
        UsageError: CT001, coordinates out of range or repeated.
    """

    name = "block"

    def __init__(self, operator: LinearOperator, index: torch.Tensor) -> None:
        whole = operator.space
        index = index.to(whole.device)
        in_range = index.dim() == 1 and len(index) and int(index.min()) >= 0 and int(index.max()) < whole.dim
        if not in_range or len(index.unique()) != len(index):
            raise UsageError(
                "CT001",
                "no such coordinates",
                expected=f"different numbers from 0 to {whole.dim - 1}",
                received=str(index[:5].tolist()),
            )
        super().__init__([operator], VectorSpace(len(index), whole.dtype, whole.device, whole.cluster))
        self.operator, self.index = operator, index

    def _seen_by(self, vector: torch.Tensor) -> list[tuple[LinearOperator, torch.Tensor]]:
        """The vector among all coordinates."""
        return [(self.operator, self._embed(vector))]

    def _embed(self, vector: torch.Tensor) -> torch.Tensor:
        return self.operator.space.zeros().index_copy(0, self.index, vector)

    def matvec(self, vector: torch.Tensor) -> torch.Tensor:
        """(A v)_I for v that is zero outside of I."""
        return self.operator.matvec(self._embed(vector))[self.index]

    @property
    def num_terms(self) -> int:
        """Those of A."""
        return self.operator.num_terms

    def term_matvec(self, term: int, vector: torch.Tensor) -> torch.Tensor:
        """The same of a term."""
        return self.operator.term_matvec(term, self._embed(vector))[self.index]
