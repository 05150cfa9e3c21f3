"""What a run would do and cost, without doing it (`--dry-run`)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from curvtool import registry
from curvtool.cluster.solo import Solo
from curvtool.config.schema import RunConfig
from curvtool.estimators.observer import SILENT, Observer
from curvtool.linalg.space import VectorSpace
from curvtool.operators.calibration import measured_seconds
from curvtool.operators.curvature import CurvatureOperator
from curvtool.operators.execution import SHARDED_BATCH
from curvtool.operators.named import OPERATORS
from curvtool.planning.cost_model import DEFAULT_BANDWIDTH, BytesByPart, ClusterModel
from curvtool.planning.needs import Need
from curvtool.problem.problem import Problem
from curvtool.report import model as report
from curvtool.session import settings
from curvtool.session.load import load

_SPARE_VECTORS = 4  # that a product and the solver hold beside the basis
_TIMED_ROWS = 4  # of a basis, to learn what meeting one of its vectors takes


@dataclass(frozen=True)
class Measured:
    """How products are run here, and what they take.

    Attributes:
        seconds: of one product over all samples.
        vector_bytes: that the solver holds.
        on_ranks: the same on the ranks that were asked for; None for one.
    """

    batch_size: int
    mode: str
    seconds: float
    graph_bytes: int
    vector_bytes: int
    on_ranks: report.RanksForecast | None


class _Imagined(Solo):
    """The first of so many ranks, the others of which are not there."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size


def plan(
    config: RunConfig,
    observer: Observer = SILENT,
    cluster: Solo | None = None,
    *,
    ranks: int | None = None,
    bandwidth: float | None = None,
) -> report.Plan:
    """What the run would do: sizes, and the measured time of one product times a typical number of them.

    Args:
        config: the run.
        observer: hears what is loaded.
        cluster: the ranks that were started; each of them measures for itself.
        ranks: how many to plan for; those that were started if None.
        bandwidth: bytes/s that each sends while it receives as many; `DEFAULT_BANDWIDTH` if None.
    """
    cluster = cluster or Solo()
    whole = replace(config, compute=replace(config.compute, shard_parameters=False))  # a product is measured uncut
    loaded = load(whole, observer, cluster)
    problem, analysis = loaded.problem, config.analysis
    budget = settings.memory_budget(config, problem.device, cluster)
    ranks, bandwidth = ranks or cluster.size, bandwidth or DEFAULT_BANDWIDTH
    own = getattr(registry.part(analysis.kind, "plan"), "measured", _of_curvature)
    need, measured = own(config, problem, budget, ranks, bandwidth)
    return report.Plan(
        kind=analysis.kind,
        model=loaded.model_name,
        num_params=problem.num_params,
        num_trainable=problem.num_trainable,
        num_samples=problem.num_samples,
        device=str(problem.device),
        dtype=str(problem.dtype).removeprefix("torch."),
        batch_size=measured.batch_size,
        ad_mode=measured.mode,
        expected_products=need.products,
        seconds_per_product=measured.seconds,
        expected_seconds=measured.seconds * need.products,
        graph_bytes=measured.graph_bytes,
        vector_bytes=measured.vector_bytes,
        memory_budget=budget,
        notes=need.notes,
        on_ranks=measured.on_ranks,
    )


def _of_curvature(
    config: RunConfig, problem: Problem, budget: int, ranks: int, bandwidth: float
) -> tuple[Need, Measured]:
    """Of a matrix over the parameters: one product on the first batch is timed, and the room of the basis counted."""
    operator = OPERATORS[getattr(config.analysis, "operator", "hessian")](
        problem,
        batch_size=settings.batch_size(config),
        mode=config.compute.hvp,
        memory_budget=budget,
        form=config.compute.operations,
    )
    seconds = _seconds_of_product(operator)
    need = registry.part(config.analysis.kind, "plan").need(config.analysis, operator, operator.space, budget)
    need.notes.append("an order of magnitude: small models often take several times as many products")
    execution = operator.execution
    graph_bytes = min(
        execution.calibration.graph_bytes_per_sample * problem.num_samples,
        execution.graph_budget,
    )
    return need, Measured(
        operator.batch_size,
        execution.describe(),
        seconds,
        graph_bytes,
        (need.basis + _SPARE_VECTORS) * operator.space.vector_bytes,
        _forecast_of_curvature(config, operator, seconds, budget, ranks, bandwidth) if ranks > 1 else None,
    )


def _forecast_of_curvature(
    config: RunConfig, operator: CurvatureOperator, seconds: float, budget: int, ranks: int, bandwidth: float
) -> report.RanksForecast:
    """The same on so many ranks, where a vector takes less room, and more of them are affordable."""
    problem, execution, alone = operator.problem, operator.execution, operator.space
    space = VectorSpace(alone.dim, alone.dtype, alone.device, _Imagined(ranks))
    need = registry.part(config.analysis.kind, "plan").need(config.analysis, operator, space, budget)
    sharded, share = config.compute.shard_parameters, -(-problem.num_samples // ranks)
    model = ClusterModel(
        num_params=alone.dim,
        itemsize=alone.dtype.itemsize,
        num_samples=problem.num_samples,
        product_seconds=seconds,
        ranks=ranks,
        bandwidth=bandwidth,
        row_seconds=_seconds_of_row(alone, budget) if need.rows_met else 0.0,
        rows_met=need.rows_met,
        basis_vectors=need.basis,
        batch_size=settings.batch_size(config) or (SHARDED_BATCH if sharded else execution.batch_size(share)),
        graph_bytes_per_sample=execution.calibration.graph_bytes_per_sample,
        graph_budget=execution.graph_budget,
        keeps_graphs=config.compute.hvp == "kept" if sharded else execution.kept(operator.batches[0]) is not None,
        sharded=sharded,
        largest_module=_largest_module(problem),
        num_tensors=len(problem.parameters),
        exchanged=need.exchanged,
        num_frozen=problem.num_params - alone.dim,
    )
    return forecast(model, model.bytes, need.products)


def _seconds_of_product(operator: CurvatureOperator) -> float:
    """Of one over all samples, from one on the first batch."""
    rows = operator.batches[0]
    parts = list(operator.by_parameter(operator.space.zeros() + 1).values())
    for _ in range(2):  # makes the graph that later products share, and warms up
        operator.execution.product(rows, parts)
    one = measured_seconds(lambda: operator.execution.product(rows, parts), operator.problem.device)
    return one * operator.problem.num_samples / len(rows)


def _seconds_of_row(space: VectorSpace, budget: int) -> float:
    """Of meeting one basis vector of P numbers in one pass of Gram-Schmidt."""
    count = max(1, min(_TIMED_ROWS, budget // 4 // max(space.vector_bytes, 1)))
    basis, vector = space.zeros(count), space.zeros()

    def orthogonalize() -> None:
        vector.sub_(space.combined(space.coefficients(basis, vector), basis))

    orthogonalize()
    return measured_seconds(orthogonalize, space.device) / count


def _largest_module(problem: Problem) -> int:
    """How many numbers the parameters of one module have at most, not counting those of modules within it."""
    found: Counter[str] = Counter()
    for name, parameter in problem.parameters.items():
        found[name.rpartition(".")[0]] += parameter.numel()
    return max(found.values())


def forecast(model: ClusterModel, held: BytesByPart, products: float) -> report.RanksForecast:
    """The model's numbers as they are reported."""
    seconds = model.seconds
    return report.RanksForecast(
        ranks=model.ranks,
        samples_per_rank=model.share,
        bandwidth=model.bandwidth,
        latency=model.latency,
        expected_products=products,
        gathered_bytes=model.gathered_bytes,
        scattered_bytes=model.scattered_bytes,
        seconds_per_product=report.SecondsOnRanks(
            compute=seconds.compute,
            traffic=seconds.traffic,
            latency=seconds.latency,
            vectors=seconds.vectors,
            total=seconds.total,
        ),
        expected_seconds=seconds.total * products,
        bytes_per_rank=report.BytesOnRank(
            parameters=held.parameters,
            working=held.working,
            basis=held.basis,
            graphs=held.graphs,
            total=held.total,
        ),
    )
