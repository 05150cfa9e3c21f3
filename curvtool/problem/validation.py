"""Do model, data and loss belong together, and is the loss a function of the parameters alone?"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from curvtool.errors import CurvtoolError, DerivativeError, LoadError
from curvtool.problem.cuts import cuts
from curvtool.problem.losses.base import tolerance_of
from curvtool.problem.losses.of_callable import CallableLoss
from curvtool.problem.losses.of_model import ModelLoss
from curvtool.problem.module import told_of_inputs
from curvtool.problem.problem import Problem
from curvtool.problem.tree import Tree, map_tensors, named_tensors
from curvtool.words import counted

_SAMPLES_APART = 4  # over all the data, each run alone and beside the others


def check_problem(problem: Problem) -> None:
    """Runs one small batch forward, compares all targets with its output's shape, and calls it again.

    Raises:
        LoadError: CT024 inputs do not fit the model, CT028 output, targets and loss, CT022 a label out of range, CT033
            a model that is random.
        DerivativeError: CT051, a sample's output depends on the others of its batch.
    """
    few = problem.sampled(_SAMPLES_APART)
    rows = range(few.num_samples)
    output = _first_output(problem, few.batch(rows)[0])
    if problem.statistics_batch is not None:  # the last batch may be too small
        with problem.context(), torch.no_grad():
            problem.forward(problem.parameters, problem.batch(problem.ranges(problem.statistics_batch)[-1])[0])
    if problem.loss is None:
        return
    prediction = problem.prediction(output)
    _check_repeats(problem, prediction, few)
    if isinstance(problem.loss, ModelLoss):
        return
    targets = problem.data.targets
    if isinstance(targets, torch.Tensor):
        if len(prediction) != len(rows):
            raise LoadError(
                "CT028",
                "the model's output has another number of rows than its input",
                expected=counted(len(rows), "row"),
                received=f"output of shape {tuple(prediction.shape)}",
                remedy="the first dimension must be the samples'",
            )
        problem.loss.check_prediction(prediction)
        for some in problem.data.pieces():
            shape = (len(some), *prediction.shape[1:])
            part = problem.data.rows(some.start, some.stop)[1]
            problem.loss.check_targets(torch.empty(shape, device="meta"), part, some.start)
    if isinstance(problem.loss, CallableLoss):
        _check_mean(problem, problem.loss)


def find_non_finite(problem: Problem) -> int | None:
    """The first sample whose own loss is not finite, or None; of a batch with statistics the first one's."""
    with problem.context(), torch.no_grad():
        for rows in problem.ranges(problem.statistics_batch or 1):
            if not bool(torch.isfinite(problem.loss_sum(problem.parameters, problem.batch(rows)))):
                return rows.start
    return None


def _first_output(problem: Problem, inputs: Tree) -> object:
    """The raw output; where the model writes to its inputs, calls are given copies from here on."""
    tensors = [tensor for _, tensor in named_tensors(inputs)]
    before = [tensor._version for tensor in tensors]
    with told_of_inputs(inputs), problem.context(), torch.no_grad():
        output = problem.forward(problem.parameters, inputs)
    if [tensor._version for tensor in tensors] != before:
        raise LoadError(
            "CT024",
            "the model writes to its inputs",
            expected="a forward that leaves its inputs as they are",
            received="an operation in place on them (inplace=True in the first layer, x += …)",
            remedy="x = x.clone() at the start of its forward",
        )
    return output


def _differ(found: torch.Tensor, wanted: torch.Tensor, slack: float = 0.0) -> bool:
    """Whether they are apart by more than rounding, in the largest entry; a NaN is apart from everything."""
    tolerance = torch.finfo(wanted.dtype).eps ** 0.5 * float(wanted.abs().max())
    return not float((found - wanted).abs().max()) <= max(tolerance, slack)


def _check_repeats(problem: Problem, prediction: torch.Tensor, few: Problem) -> None:
    """The same samples give the same predictions again, and each alone what it gives beside others.

    Outputs that are small differences of large numbers show rounding that is no small part of them; so what differs
    counts where it does so in float64 too, and by more than rounded parameters and inputs do.
    """
    if not prediction.is_floating_point() or not bool(torch.isfinite(prediction).all()):
        return
    wrong = _unlike(few, prediction, problem)
    if wrong is None:
        return
    try:
        exact = few.restricted(range(few.num_samples), torch.float64)
        with exact.context(), torch.no_grad():
            precise = exact.prediction(exact.forward(exact.parameters, exact.batch(range(few.num_samples))[0]))
        again = _unlike(exact, precise, problem, _sensitivity)
    except (RuntimeError, TypeError):  # a model that knows one precision alone
        again = _unlike(few, prediction, problem, _sensitivity)
    if again is not None:
        raise again


_ROUNDINGS = 100  # times what one unit of rounding in parameters and inputs does to the outputs


def _sensitivity(problem: Problem, prediction: torch.Tensor) -> float:
    """The largest change of an output by rounding: parameters and floating inputs each a unit up or down at random."""
    generator = torch.Generator().manual_seed(0)

    def moved(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_floating_point():
            return tensor
        signs = torch.randint(0, 2, tensor.shape, generator=generator).to(tensor) * 2 - 1
        return tensor * (1 + torch.finfo(problem.dtype).eps * signs)

    with problem.context(), torch.no_grad():
        parameters = {name: moved(p) for name, p in problem.parameters.items()}
        inputs = map_tensors(moved, problem.batch(range(problem.num_samples))[0])
        change = problem.prediction(problem.forward(parameters, inputs)) - prediction
    return _ROUNDINGS * float(change.abs().max())


def _unlike(
    few: Problem,
    prediction: torch.Tensor,
    whole: Problem,
    rounding: Callable[[Problem, torch.Tensor], float] | None = None,
) -> CurvtoolError | None:
    """What is wrong with these samples' predictions, if something is; outputs alone may differ by the rounding."""
    rows = range(few.num_samples)
    with few.context(), torch.no_grad():
        again = few.prediction(few.forward(few.parameters, few.batch(rows)[0]))
        if again.shape != prediction.shape or _differ(again, prediction):
            return LoadError(
                "CT033",
                "the model gives other values each time it is called on the same samples",
                expected="a function of its inputs and parameters in evaluation mode",
                received="two calls that differ",
                remedy="let dropout and noise follow the module's mode (F.dropout(x, p, self.training))",
            )
        if len(prediction) != len(rows) or len(rows) < 2 or isinstance(whole.loss, ModelLoss):
            return None
        if whole.statistics_batch is not None:  # each depends on its batch
            return None
        slack = rounding(few, prediction) if rounding is not None else 0.0
        for row in rows:  # a path that depends on the batch may suit some of them alone
            try:
                alone = few.prediction(few.forward(few.parameters, few.batch(range(row, row + 1))[0]))
            except ValueError:  # statistics of one sample do not exist
                alone = torch.full_like(prediction[:1], float("nan"))
            beside = prediction[row : row + 1]
            if alone.shape != beside.shape or not _differ(alone, beside, slack):
                continue
            return DerivativeError(
                "CT051",
                "one sample's output depends on the others in its batch, so the loss depends on the batch size",
                expected="samples that are independent in evaluation mode",
                received="another output for a sample alone than beside others",
                remedy="use layers with fixed statistics (BatchNorm with track_running_stats=True), or take the "
                "statistics of batches: --batch-norm batch --batch-size N",
            )
    return None


def _loss_of(problem: Problem, loss: CallableLoss) -> Callable[[list[int]], torch.Tensor]:
    """The summed loss of any samples, whose predictions are those of their batches where these have statistics."""
    if problem.statistics_batch is None:
        return lambda rows: problem.loss_sum(problem.parameters, problem.batch_of(rows))
    batches = [problem.batch(rows)[0] for rows in problem.ranges(problem.statistics_batch)]
    predictions = torch.cat([problem.prediction(problem.forward(problem.parameters, each)) for each in batches])
    return lambda rows: loss.sum(predictions[rows], problem.batch_of(rows)[1])


def _check_mean(problem: Problem, loss: CallableLoss) -> None:
    """A loss that returns one number returns the mean over its samples: not their sum, nor a weighted mean.

    All data are looked at, cut into batches in three ways: a class that is rare, or one ignored target, shows nowhere
    else.
    """
    totals, scale = [], 0.0
    with problem.context(), torch.no_grad():
        inputs, targets = problem.batch(problem.first(2))
        if not loss.returns_mean(problem.prediction(problem.forward(problem.parameters, inputs)), targets):
            return
        loss_of = _loss_of(problem, loss)
        for cut in cuts(problem.num_samples):
            sums = [loss_of(rows).double() for rows in cut]
            values = torch.stack(sums)
            if not bool(values.isfinite().all()):
                break  # told with its row when the loss is taken, where a sample of its own is not finite
            totals.append(float(values.sum()))
            scale = max(scale, float(values.abs().sum()))
    if len(totals) < 3:
        row = find_non_finite(problem)
        if row is None:  # a mean over nothing, as of ignored targets alone
            totals, scale = [math.nan, math.nan], 1.0
        else:
            return
    if not max(totals) - min(totals) <= tolerance_of(problem.dtype) * scale:
        num = problem.num_samples
        raise LoadError(
            "CT028",
            f"the loss {loss.name} returns one number, which is not the mean of its samples' losses",
            expected="the same mean over all data however they are cut into batches",
            received=f"{', '.join(f'{total / num:.8g}' for total in totals)} by three cuts (a sum, class weights, or "
            "targets that do not count?)",
            remedy="return one number a sample (reduction='none'), multiplied by its weight; or a named loss: "
            "cross-entropy takes class_weights and ignore_index",
        )
