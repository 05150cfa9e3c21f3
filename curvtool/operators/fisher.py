"""Fisher information matrices: of the model's own distribution, and the empirical one of the targets at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from curvtool.errors import UsageError
from curvtool.operators.gauss_newton import GaussNewton, SandwichMatrix, SandwichOperator
from curvtool.problem.statistics import refuse_per_sample

if TYPE_CHECKING:
    from curvtool.problem.problem import Problem


class Fisher(GaussNewton):
    """F = (1/W) sum_i E_{y ~ p(.|x_i)} [g_i(y) g_i(y)^T], g_i(y) the gradient of -log p(y | x_i); exact.

    For likelihoods of an exponential family with the outputs as natural parameters the expectation is the Gauss-Newton
    matrix (Martens 2020, JMLR 21(146), section 9): cross-entropy and bce-with-logits on logits, and mse as a Gaussian
    of variance 1/2, whose -log p is (z - y)^2. The arguments are those of `CurvatureOperator`.

    Raises:
        UsageError: CT008, the loss is not one of these.
    """

    name = "fisher"

    def check_loss(self, problem: Problem) -> None:
        """Refuses what is no likelihood."""
        assert problem.loss is not None
        if not problem.loss.is_likelihood:
            raise UsageError(
                "CT008",
                "the Fisher information needs a loss that is a negative log-likelihood",
                expected="cross-entropy, bce-with-logits or mse",
                received=problem.loss.name,
                remedy="--operator ggn, which any loss has, or --operator empirical-fisher",
            )


class EmpiricalFisher(SandwichOperator):
    """E = (1/W) sum_t g_t g_t^T, g_t the gradient of the loss of term t at the target at hand.

    Another matrix than the Fisher information, which averages over the model's own targets (Kunstner, Hennig, Balles
    2019): it vanishes where the data are fitted exactly. A term is one draw of a target: a sample for regression, for
    binary targets and for a callable loss, a counted position for cross-entropy over positions. W is the weight of the
    mean loss: for mse and bce-with-logits the number of elements, while g_t is that of the sum over a sample's. The
    arguments are those of `CurvatureOperator`.

    Raises:
        LoadError: CT028, the loss gives no loss a sample.
        UsageError: CT003, batches have statistics, so that no sample has a gradient of its own.
    """

    name = "empirical-fisher"

    def __init__(self, problem: Problem, **options: Any) -> None:
        refuse_per_sample(
            problem.statistics_batch, "the empirical Fisher matrix is made of gradients", "--operator ggn or hessian"
        )
        super().__init__(problem, **options)

    def make_matrix(self, problem: Problem) -> SandwichMatrix:
        """J^T J of the vector of the batch's losses."""
        assert problem.loss is not None
        return SandwichMatrix(problem, problem.loss.terms, lambda _output, _targets, tangent: tangent)
