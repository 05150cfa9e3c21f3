"""The problem: a model, its data and its loss as pure functions of the parameters and of a range of samples."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from operator import methodcaller
from typing import Any

import torch
from torch import nn

from curvtool.cluster.solo import Solo
from curvtool.errors import CurvtoolError, LoadError, OutOfMemory, is_out_of_memory
from curvtool.problem.call import ModelCall
from curvtool.problem.context import Differentiable, told_of_index
from curvtool.problem.cuts import cuts, spread
from curvtool.problem.data import Data
from curvtool.problem.inputs import call_with_leaves
from curvtool.problem.losses.base import Loss
from curvtool.problem.losses.named import get_loss
from curvtool.problem.losses.of_model import ModelLoss
from curvtool.problem.losses.reduction import reduced, with_targets
from curvtool.problem.module import (
    padding_rows,
    refuse_scripted_lookups,
    refuse_sharded,
    select_prediction,
    told_of_inputs,
    unwrap,
    uses_running_statistics,
)
from curvtool.problem.rewrites.embedding import Held
from curvtool.problem.rewrites.mode import Rewriting
from curvtool.problem.select import select_parameters
from curvtool.problem.sharded import ShardedState
from curvtool.problem.sources.objects import from_object
from curvtool.problem.statistics import check_statistics, whole_batches
from curvtool.problem.tree import Tree, map_tensors, named_tensors, num_bytes, storage_id
from curvtool.vocabulary import BatchNorm, Form
from curvtool.words import counted

_HALF = (torch.float16, torch.bfloat16)


class Problem:
    """L(theta) = (1/W) sum_i l_i(theta) over the samples of a data set.

    The model's parameters and buffers are copied, so that later training does not change what is measured, and the
    module itself is never modified: it runs in evaluation mode (no dropout, BatchNorm by its running statistics)
    only while it is called from here.

    Args:
        model: the module; wrappers of `torch.compile` and `DataParallel` are taken off.
        data: `(inputs, targets)`, a dict of tensors, a Dataset, a DataLoader or batches; read once, in its order.
        loss: one of `curvtool.problem.losses.named.LOSS_NAMES`, a callable `loss(output, target)` or a `Loss`; None
            where only the input-output Jacobian is wanted.
        reduction: `mean` divides by the global weight W (as torch's mean over all data at once), `sum` by nothing;
            `token-mean` is `mean` for a loss that counts targets, `sample-mean` the mean of each sample's own mean.
        include: shell patterns of parameters that take part (all trainable ones if empty).
        exclude: shell patterns of parameters that do not.
        device: where to compute; the model's own device if None.
        dtype: what to compute in; the model's own if None, float32 for half-precision weights.
        output_key: which entry of a dict or tuple output is the prediction; `logits` or the first tensor if None.
        tf32: allow TensorFloat-32 products on CUDA (off, they lose 13 of 23 bits).
        cluster: the ranks among which parameters are cut.
        shard_parameters: keep a piece of every parameter on each rank alone, and gather it where the model reads it.
        batch_norm: `eval` normalises by running statistics; `batch` by those of each batch, as training does, and
            differentiates through them. L is then (1/W) sum_b sum_(i in b) l_i(theta; b) over consecutive batches b,
            the last one shorter: the mean of the batches' losses, each by its weight. Nothing is then cut into other
            batches, and nothing is known of single samples.
        batch_size: of these batches, which are part of the quantity; a DataLoader's own if None.

    Attributes:
        statistics_batch: the samples of a batch whose statistics are taken; None in evaluation mode.
        sharded: how the parameters are cut; None where each rank has all of them.
        keeps_order: batches are of consecutive samples, since they are part of what is measured; else they are drawn
            at random over all samples (see `scattering`).
        is_part: whether these are some samples of another problem, from which nothing follows for the others.
        shapes: of the parameters that take part, by name, uncut.

    Raises:
        LoadError: CT023 to CT028 where data, model and loss do not fit.
        DerivativeError: CT050, parameters that are shards (FSDP2, tensor parallel).
        UsageError: CT001, batch statistics without a batch size; CT003, with what they cannot be had with.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Any,
        loss: str | Loss | Callable[..., torch.Tensor] | None = "cross-entropy",
        *,
        reduction: str = "mean",
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        output_key: str | None = None,
        tf32: bool = False,
        cluster: Solo | None = None,
        shard_parameters: bool = False,
        batch_norm: str = "eval",
        batch_size: int | None = None,
    ) -> None:
        self.model = unwrap(model)
        if batch_size is None and isinstance(data, torch.utils.data.DataLoader):
            batch_size = data.batch_size
        self._found_wrapped = self.model is not model
        self._found_training = any(module.training for module in self.model.modules())
        self.loss = reduced(get_loss(loss), reduction) if loss is not None else None
        self.data = with_targets(from_object(data), self.loss)
        if isinstance(self.loss, ModelLoss):  # which the model computes from them
            called = self.loss.with_targets(self.model, self.data.inputs, self.data.targets)
            self.data = replace(self.data, inputs=called)
        self.reduction, self.output_key, self.tf32 = reduction, output_key, tf32
        self.copies_inputs = self.data.mapped
        self.form: Form = "torch"
        self.is_part = False
        refuse_sharded(self.model)
        refuse_scripted_lookups(self.model)
        self.statistics_batch = check_statistics(
            batch_norm, batch_size, self.model, self.loss, len(self.data), sharded=shard_parameters
        )
        self.keeps_order = self.statistics_batch is not None
        self._held: Held | None = None
        chosen = select_parameters(self.model, include, exclude)
        first = next(iter(chosen.values()))
        self.device = torch.device(device) if device is not None else first.device
        self.dtype = dtype or (torch.float32 if first.dtype in _HALF else first.dtype)
        self.num_params = sum(p.numel() for p in self.model.parameters())
        self.shapes = {name: p.shape for name, p in chosen.items()}
        self.sharded: ShardedState | None = None
        try:
            self._take_parameters(chosen, cluster if shard_parameters else None)
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise self.out_of_memory(0) from error
            raise
        self._model_call = ModelCall(
            self.model, self.data.inputs, self.sharded, by_batch=self.statistics_batch is not None
        )
        if isinstance(self.loss, ModelLoss) and isinstance(self.data.targets, torch.Tensor):
            self.loss.settle(self.data.targets, [self._predictions_by(cut) for cut in cuts(self.num_samples)])
        self.total_weight = self._weight_of(self.data)

    def _take_parameters(self, chosen: dict[str, torch.Tensor], sharing: Solo | None) -> None:
        """Copies of the parameters that take part, and of all else: this rank's pieces where ranks share them."""
        own = dict(self.model.named_parameters())
        taken: dict[str, torch.Tensor] = dict(own)
        if sharing is not None and sharing.size > 1:
            taken = {name: self._snapshot(ShardedState.shard_of(p, sharing)) for name, p in own.items()}
            self.sharded = ShardedState(self.model, sharing, taken)
        self.parameters = {name: self._snapshot(taken.get(name, p)).requires_grad_() for name, p in chosen.items()}
        fixed = dict(self.model.named_buffers()) | {name: p for name, p in taken.items() if name not in chosen}
        self._constants = {name: self._snapshot(t) for name, t in fixed.items()}

    def _snapshot(self, tensor: torch.Tensor) -> torch.Tensor:
        dtype = self.dtype if tensor.is_floating_point() else tensor.dtype
        return tensor.detach().to(device=self.device, dtype=dtype, copy=True)

    def batch_of(self, rows: Sequence[int]) -> tuple[Tree, Tree | None]:
        """As `batch`, for any samples."""
        few = self.data.take(rows)
        inputs, targets = few.rows(0, len(few))
        return self._placed(inputs), self._placed(targets)

    def _predictions_by(self, batches: list[list[int]]) -> list[tuple[list[int], torch.Tensor]]:
        found = []
        for rows in batches:
            inputs = self.batch_of(rows)[0]
            with told_of_inputs(inputs), self.context(), torch.no_grad():
                found.append((rows, self.prediction(self.forward(self.parameters, inputs)).cpu()))
        return found

    def _weight_of(self, data: Data) -> float:
        """W; 1 where nothing is divided by it.

        Raises:
            LoadError: CT021 there are no targets, CT023 none of them counts.
        """
        if self.loss is None:
            return 1.0
        if data.targets is None:
            raise LoadError(
                "CT021",
                f"the loss {self.loss.name} needs targets, and the data have none",
                expected="inputs and targets",
                received="inputs alone",
                remedy="name them with --target-key; jacnorm needs none",
            )
        if self.reduction == "sum":
            return 1.0
        weight = sum(self.loss.weight(data.rows(rows.start, rows.stop)[1]) for rows in data.pieces())
        if weight == 0:
            raise LoadError(
                "CT023",
                "no target counts: the weight of the data is 0",
                expected="at least one target other than ignore_index",
                received="only ignored targets",
                remedy="check --target-key and --ignore-index",
            )
        return weight

    def weight_of(self, rows: range) -> float:
        """What these samples add to the weight of the whole (their number where nothing is divided by a weight)."""
        if self.loss is None or self.reduction == "sum" or not rows:
            return float(len(rows))
        return self.loss.weight(self.data.rows(rows.start, rows.stop)[1])

    @property
    def repairs(self) -> list[str]:
        """What is switched around every call of the model, so that it can be differentiated twice."""
        call, rows, size = self._model_call, ", ".join(padding_rows(self.model)), self.statistics_batch
        casts = self.dtype == torch.float64 and bool(call.casts_down)
        switched = {
            "the wrapper was taken off": self._found_wrapped,
            "evaluation mode" + (" (the model was in training mode)" if self._found_training else ""): True,
            "attention by the math backend": True,
            "TF32 off": not self.tf32,
            "compiled modules run uncompiled": call.has_compiled,
            "cuDNN off for the recurrent layers": call.has_rnn,
            f"rows for padding are constants ({rows})": bool(rows),
            f"batch statistics of {size} consecutive samples, by plain operations": size is not None,
            "the gradients of embeddings are not scaled by frequencies": call.cleared_scaling,
            "casts to less than float64 inside the model left out": casts,
        }
        return [told for told, is_so in switched.items() if is_so]

    @property
    def num_trainable(self) -> int:
        """The number P of parameters that take part."""
        return sum(shape.numel() for shape in self.shapes.values())

    # the samples

    @property
    def num_samples(self) -> int:
        """The number N of samples."""
        return len(self.data)

    @property
    def batch_norm(self) -> BatchNorm | None:
        """`batch` or `eval`; None where the model has no module for which it matters."""
        if self.statistics_batch is not None:
            return "batch"
        return "eval" if uses_running_statistics(self.model) else None

    @property
    def cautions(self) -> list[tuple[str, str]]:
        """What a reader of this problem's numbers should know, each with its code."""
        found = []
        if self.batch_norm == "eval":
            found.append(
                (
                    "CT238",
                    "BatchNorm runs in evaluation mode (running statistics); training sees another "
                    "matrix: --batch-norm batch --batch-size N shows it",
                )
            )
        if self._model_call.cleared_scaling:
            found.append(
                (
                    "CT239",
                    "scale_grad_by_freq is off here: embeddings with it have the gradient of no "
                    "function, and training steps along another one",
                )
            )
        return found  # fmt: skip

    def first(self, num: int) -> range:
        """The first so many samples, or all there are; the first batch where batches have statistics."""
        return range(min(self.statistics_batch or num, self.num_samples))

    def ranges(self, size: int) -> list[range]:
        """The samples cut into consecutive ranges of `size`, the last one shorter."""
        return [range(start, min(start + size, self.num_samples)) for start in range(0, self.num_samples, size)]

    def batch(self, rows: range) -> tuple[Tree, Tree | None]:
        """Inputs and targets of these samples on the device, floating inputs in the working dtype; those of any sample
        for an empty range, whose loss is then to count nothing."""
        rows = rows or self.first(1)
        if self.statistics_batch is not None:
            self._check_whole(rows, self.statistics_batch)
        inputs, targets = self.data.rows(rows.start, rows.stop)
        return self._placed(inputs), self._placed(targets)

    def _check_whole(self, rows: range, size: int) -> None:
        """Raises RuntimeError for what is no batch with statistics of its own: callers that try ways leave it out."""
        if rows.start % size or len(rows) > size or (len(rows) < size and rows.stop != self.num_samples):
            raise RuntimeError(f"samples {rows.start} to {rows.stop} are no batch of {size} with its statistics")

    def _placed(self, tree: Tree) -> Tree:
        def place(tensor: torch.Tensor) -> torch.Tensor:
            dtype = self.dtype if tensor.is_floating_point() else tensor.dtype
            return tensor.to(device=self.device, dtype=dtype, non_blocking=True, copy=self.copies_inputs)

        return map_tensors(place, tree)

    def keep_data_on_device(self, budget_bytes: int) -> None:
        """Moves all samples to the device once, where they fit the budget; later batches are then views."""
        inputs, targets = self.data.inputs, self.data.targets
        on_device = all(t.device == self.device for _, t in named_tensors({"x": inputs, "y": targets}))
        if not on_device and num_bytes({"x": inputs, "y": targets}) <= budget_bytes:
            move = partial(map_tensors, methodcaller("to", self.device))
            self.data = replace(self.data, inputs=move(inputs), targets=move(targets), mapped=False)

    def storages(self) -> set[int]:
        """The ids of the memory that the problem holds itself: parameters, buffers and samples."""
        held = {
            "parameters": self.parameters,
            "constants": self._constants,
            "data": (self.data.inputs, self.data.targets),
        }
        return {storage_id(tensor) for _, tensor in named_tensors(held)}

    def restricted(self, rows: Sequence[int], dtype: torch.dtype) -> Problem:
        """The same problem on these samples alone, computed in another dtype; in the same one it shares the tensors.

        Where batches have statistics: on as many whole batches, spread over those that the samples lie in.
        """
        if self.statistics_batch is not None:
            rows = whole_batches(rows, self.statistics_batch, self.num_samples)
        other = copy.copy(self)
        other.dtype = dtype
        if dtype != self.dtype:
            other.parameters = {name: other._snapshot(p).requires_grad_() for name, p in self.parameters.items()}
            other._constants = {name: other._snapshot(t) for name, t in self._constants.items()}
        other.data = self.data.take(rows)
        other.is_part = self.is_part or len(rows) < self.num_samples
        other.total_weight = other._weight_of(other.data)
        return other

    def spread(self, wanted: int) -> Sequence[int]:
        """So many samples over all the data (`cuts.spread`); those that count, where none of the drawn ones does."""
        rows = spread(self.num_samples, wanted)
        if self.loss is None or self.reduction == "sum" or self.loss.weight(self.data.take(rows).rows(0, len(rows))[1]):
            return rows
        counted: list[int] = []
        for some in self.data.pieces():
            weights = self.loss.sample_weights(self.data.rows(some.start, some.stop)[1])
            counted += (some.start + torch.nonzero(weights.flatten() > 0).flatten()).tolist()
        chosen = [counted[place] for place in spread(len(counted), wanted)] if counted else []
        return chosen + [row for row in rows if row not in chosen][: len(rows) - len(chosen)]

    def sampled(self, wanted: int) -> Problem:
        """The same problem on so many samples over all the data, to try something out; W stays that of all.

        Where batches have statistics: on a whole batch in the middle.
        """
        rows = self.spread(wanted) if self.statistics_batch is None else self._middle_batches(1)
        other = copy.copy(self)
        other.data = self.data.take(rows)
        other.is_part = self.is_part or other.num_samples < self.num_samples
        return other

    def _middle_batches(self, num: int) -> Sequence[int]:
        """So many consecutive batches with statistics, as far from the ends of the data as they can be."""
        size = self.statistics_batch or 1
        start = max(self.num_samples // size - num, 0) // 2 * size
        return range(start, min(start + num * size, self.num_samples))

    def copied(self) -> Problem:
        """The same problem with parameters of its own, which may be changed."""
        other = copy.copy(self)
        other.parameters = {name: p.detach().clone().requires_grad_() for name, p in self.parameters.items()}
        return other

    def with_parameters(self, names: Sequence[str]) -> Problem:
        """The same problem over these parameters alone: the others are constants."""
        other = copy.copy(self)
        other.parameters = {name: self.parameters[name] for name in names}
        other.shapes = {name: self.shapes[name] for name in names}
        fixed = {name: p.detach() for name, p in self.parameters.items() if name not in other.parameters}
        other._constants = {**self._constants, **fixed}
        return other

    def holding_constants(self) -> Problem:
        """The same problem, in which what is constant stays as it is at the first call, whatever parameters come."""
        other = copy.copy(self)
        other._held = {}
        return other

    def in_form(self, form: Form) -> Problem:
        """The same problem with the model's operations rewritten: the same numbers, up to rounding."""
        other = copy.copy(self)
        other.form = form
        return other

    def rewritable(self, rows: range) -> dict[Form, bool]:
        """Which forms would change something in a call on these samples."""
        counter = Rewriting()
        inputs = self.batch(rows)[0]
        with torch.no_grad(), counter:
            self.forward(self.parameters, inputs)
        return {"torch": True, "rewritten": counter.num_calls > 0, "channels-last": counter.num_images > 0}

    def layers(self) -> dict[str, list[str]]:
        """The names of the parameters that take part by the module that holds them (the model itself: `(model)`)."""
        found: dict[str, list[str]] = {}
        for name in self.parameters:
            found.setdefault(name.rpartition(".")[0] or "(model)", []).append(name)
        return found

    # the functions

    def forward(self, parameters: Mapping[str, torch.Tensor], inputs: Tree) -> Any:
        """The model's raw output on a batch, with these parameters, in evaluation mode; see `batch_norm`."""
        return self._model_call({**self._constants, **parameters}, inputs, self.form, self.dtype, self._held)

    def prediction(self, output: Any) -> torch.Tensor:
        """The one tensor of a model's output that the loss reads.

        Raises:
            LoadError: CT028, the output holds no such tensor.
        """
        choose = select_prediction if self.loss is None else self.loss.prediction
        return choose(output, self.output_key)

    def loss_sum(self, parameters: Mapping[str, torch.Tensor], batch: tuple[Tree, Tree | None]) -> torch.Tensor:
        """Sum of the losses of a batch, a scalar; divide by `total_weight` once, after summing over all batches."""
        assert self.loss is not None
        return self.loss.sum(self.prediction(self.forward(parameters, batch[0])), batch[1])

    def input_function(self, batch: tuple[Tree, Tree | None]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Prediction (n, C) and the leaves it is differentiated by: floating inputs, or the embeddings of tokens.

        Raises:
            DerivativeError: CT052, integer inputs that no embedding layer of the model reads.
        """
        frozen = {name: p.detach() for name, p in self.parameters.items()}
        output, leaves = call_with_leaves(self.model, lambda inputs: self.forward(frozen, inputs), batch[0])
        return self.prediction(output).flatten(1), leaves

    # around them

    def context(self, batch_size: int = 0) -> Differentiable:
        """Everything a product needs around it: attention with a second derivative, no TF32, errors told in words.

        Raises:
            DerivativeError: CT050, an operation inside has no such derivative.
            OutOfMemory: CT040, an allocation inside failed; it names the batch size to try.
            LoadError: CT024, an index inside is out of range.
        """

        def tell(error: BaseException) -> CurvtoolError | None:
            return self.out_of_memory(batch_size) if is_out_of_memory(error) else told_of_index(error)

        around = self.sharded.saving if self.sharded is not None else None
        return Differentiable(self.device, tf32=self.tf32, cudnn=not self._model_call.has_rnn, tell=tell, around=around)

    def out_of_memory(self, batch_size: int) -> OutOfMemory:
        """The error for a batch that did not fit, with the size to try."""
        try_size = max(1, batch_size // 2)
        remedy = "a larger device, or --params to take fewer layers"
        if self.statistics_batch is not None:
            remedy += "; a smaller --batch-size has other statistics, and is another quantity"
        elif batch_size > 1:
            remedy = f"--batch-size {try_size}"
        return OutOfMemory(
            "CT040",
            f"out of memory on {self.device}" + (f" with batches of {batch_size}" if batch_size else ""),
            expected="parameters, one batch's graph and the vectors to fit",
            received=f"{counted(self.num_trainable, 'parameter')} in {self.dtype}",
            remedy=remedy,
        )
