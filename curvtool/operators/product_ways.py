"""The ways to run a batch's product, one class each: what `--hvp` names.

To add one: a class here, and its word in `vocabulary.Mode`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol

import torch

from curvtool.errors import UsageError
from curvtool.operators.differences import HasDifferences
from curvtool.operators.products import Parts
from curvtool.vocabulary import Form

if TYPE_CHECKING:
    from curvtool.operators.execution import Execution


class Graph(Protocol):
    """A batch's matrix with what autograd needs to multiply by it again."""

    def product(self, vector: Sequence[torch.Tensor], *, keep: bool = True) -> Parts:
        """A_b v in parts; without `keep` the graph is given up."""


class BatchMatrix(Protocol):
    """One kind of matrix, a batch at a time.

    Attributes:
        keeping_pays: whether a kept graph saves work; where not, forward mode costs the same and holds no memory.
    """

    @property
    def keeping_pays(self) -> bool:
        """As said above."""

    def rewritable(self, rows: range) -> dict[Form, bool]:
        """Which forms of the operations change something in a product on these samples."""

    def build(self, rows: range) -> Graph:
        """The graph of the matrix of these samples, summed over them."""

    def forward_product(self, rows: range, vector: Sequence[torch.Tensor]) -> Parts:
        """A_b v by forward mode, without a graph that could be kept."""


class ProductWay(ABC):
    """How a product is run.

    Attributes:
        name: as `--hvp` names it.
        keeps: whether every batch's graph is kept for further products.
        is_timed: whether it is tried on a few samples; a compilation is tried on full batches, once it may pay.
        is_reverse: whether it is torch's reverse mode twice: with torch's own operations nothing to compare it with.
        compiles: whether products of full batches are compiled.
        is_approximate: whether it is a difference of gradients, whose error is another than rounding.
    """

    name: ClassVar[str]
    keeps: ClassVar[bool] = False
    is_timed: ClassVar[bool] = False
    is_reverse: ClassVar[bool] = False
    compiles: ClassVar[bool] = False
    is_approximate: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def product(
        cls, matrix: BatchMatrix, rows: range, vector: Sequence[torch.Tensor], execution: Execution | None = None
    ) -> Parts:
        """A_b v without a kept graph, in parts.

        Args:
            matrix: the matrix.
            rows: the samples.
            vector: v, in parts of the parameters' shapes.
            execution: knows what a way needs beside these.
        """

    @classmethod
    def repeated(cls, matrix: BatchMatrix, rows: range, vector: Sequence[torch.Tensor]) -> Callable[[], Parts]:
        """A product as it is run again and again, to be timed."""
        return lambda: cls.product(matrix, rows, vector)


class Fresh(ProductWay):
    """A graph of the gradient is made for every product, and given up."""

    name, is_timed, is_reverse = "fresh", True, True

    @classmethod
    def product(
        cls, matrix: BatchMatrix, rows: range, vector: Sequence[torch.Tensor], execution: Execution | None = None
    ) -> Parts:
        """By reverse mode twice."""
        return matrix.build(rows).product(vector, keep=False)


class Kept(Fresh):
    """The graph of the gradient is kept: two thirds of the work of a fresh product, and memory for every batch."""

    name, keeps = "kept", True

    @classmethod
    def repeated(cls, matrix: BatchMatrix, rows: range, vector: Sequence[torch.Tensor]) -> Callable[[], Parts]:
        """On a graph that is there."""
        graph = matrix.build(rows)
        return lambda: graph.product(vector)


class Forward(ProductWay):
    """Forward over reverse: the tangent rides along, and no graph is kept."""

    name, is_timed = "forward", True

    @classmethod
    def product(
        cls, matrix: BatchMatrix, rows: range, vector: Sequence[torch.Tensor], execution: Execution | None = None
    ) -> Parts:
        """By forward mode."""
        return matrix.forward_product(rows, vector)


class Compiled(Fresh):
    """Fresh products of full batches, compiled by `torch.compile`."""

    name, is_timed, compiles = "compiled", False, True


class Differences(ProductWay):
    """Central differences of gradients: for operations without a second derivative, approximate."""

    name, is_approximate = "finite-difference", True

    @classmethod
    def product(
        cls, matrix: BatchMatrix, rows: range, vector: Sequence[torch.Tensor], execution: Execution | None = None
    ) -> Parts:
        """(g(theta + t v) - g(theta - t v)) / 2t, with torch's own operations."""
        assert execution is not None
        length = execution.difference_step.length
        return cls.required_of(execution.plain_matrix).difference_product(rows, vector, length)

    @staticmethod
    def required_of(matrix: BatchMatrix) -> HasDifferences:
        """The matrix as one whose products are differences.

        Raises:
            UsageError: CT003, it is none.
        """
        if not isinstance(matrix, HasDifferences):
            raise UsageError(
                "CT003",
                "differences of gradients give the Hessian alone",
                expected="--operator hessian",
                received="another matrix with --hvp finite-difference",
                remedy="--operator hessian, or --hvp auto",
            )
        return matrix


WAYS: dict[str, type[ProductWay]] = {way.name: way for way in (Kept, Fresh, Forward, Compiled, Differences)}
