"""Modules: what it takes to call one as a function, without changing it."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from curvtool.errors import CurvtoolError, DerivativeError, LoadError
from curvtool.problem.checkpoints.scripted import ScriptedModule
from curvtool.problem.tree import Tree, named_tensors


def unwrap(model: nn.Module) -> nn.Module:
    """Takes off `torch.compile` and the data-parallel wrappers, which have no second derivative."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def refuse_sharded(model: nn.Module) -> None:
    """Refuses parameters of which each process holds a part: their gathering has no second derivative.

    Raises:
        DerivativeError: CT050.
    """
    sharded = next((name for name, p in model.named_parameters() if hasattr(p, "full_tensor")), None)
    if sharded is not None:
        raise DerivativeError(
            "CT050",
            "the model's parameters are shards (FSDP2, tensor parallel), which have no second derivative",
            expected="whole parameters",
            received=f"{sharded} as a DTensor",
            remedy="gather them first: {name: p.full_tensor()} into a plain module; or open its saved checkpoint",
        )


def takes_keywords(model: nn.Module, inputs: Tree) -> bool:
    """Whether the forward of the model takes the dictionary's entries as keywords (else it takes the dictionary)."""
    if not isinstance(inputs, Mapping):
        return False
    try:
        inspect.signature(model.forward).bind(**inputs)
    except TypeError:
        return False
    return True


def has_ties(model: nn.Module) -> bool:
    """Whether a parameter or buffer stands under several names; to look for them at every call takes time."""
    return any(
        sum(1 for _ in named(remove_duplicate=False)) > sum(1 for _ in named())
        for named in (model.named_parameters, model.named_buffers)
    )


@contextlib.contextmanager
def told_of_inputs(inputs: Tree) -> Iterator[None]:
    """What a user's module raises on these inputs becomes CT024 in words."""
    try:
        yield
    except CurvtoolError:
        raise
    except Exception as error:  # the user's module fails in its own way
        whole = [name or "inputs" for name, t in named_tensors(inputs) if not t.is_floating_point()]
        types = "dtype" in str(error) or "scalar type" in str(error)
        remedy = "check --input-key and the shape (channels first? flattened?), and the factory's arguments"
        if whole and types:
            remedy = f"save {', '.join(whole)} as float32 (images as the model was trained on, often x / 255)"
        shapes = ", ".join(f"{name or 'inputs'} {tuple(t.shape)} {t.dtype}" for name, t in named_tensors(inputs))
        words = (str(error).strip().splitlines() or [""])[0][:300]
        raise LoadError(
            "CT024",
            "the model fails on the inputs",
            expected="inputs that the model's forward takes",
            received=f"{shapes}; {type(error).__name__}: {words}",
            remedy=remedy,
        ) from error


def padding_rows(model: nn.Module) -> dict[str, int]:
    """The rows of embeddings that stand for padding, by the parameter's name: torch gives them no gradient."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and module.padding_idx is not None:
            found[f"{name}.weight" if name else "weight"] = module.padding_idx
    return found


def refuse_scripted_lookups(model: nn.Module) -> None:
    """Refuses embeddings in TorchScript, where nothing can be switched, whose options make them no function.

    Raises:
        DerivativeError: CT050.
    """
    graphs: list[Any] = [module.graph for module in model.modules() if isinstance(module, ScriptedModule)]
    for graph in [graph for graph in graphs if graph is not None]:
        nodes = [n for kind in ("aten::embedding", "aten::embedding_bag") for n in graph.findAllNodes(kind)]
        option = "scale_grad_by_freq" if any(list(n.inputs())[3].toIValue() is True for n in nodes) else None
        option = "max_norm" if "embedding_renorm" in str(graph) else option
        if option is not None:
            raise DerivativeError(
                "CT050",
                f"an embedding in TorchScript has {option}, with which its gradient is that of no function",
                expected=f"an embedding without {option}",
                received="a program that cannot be changed",
                remedy=f"export the program again without {option}, or give the module itself by --factory",
            )


def has_embeddings(model: nn.Module) -> bool:
    """Whether a module inside looks up rows of a table."""
    return any(isinstance(module, (nn.Embedding, nn.EmbeddingBag)) for module in model.modules())


def scales_by_frequency(model: nn.Module) -> bool:
    """Whether an embedding inside divides its gradient by the frequency of each token."""
    kinds = (nn.Embedding, nn.EmbeddingBag)
    return any(isinstance(module, kinds) and module.scale_grad_by_freq for module in model.modules())


def normalisers(model: nn.Module) -> dict[str, nn.Module]:
    """The modules that training runs with the statistics of the batch (or the instance) at hand, by name.

    Those of torch and their subclasses, and any other that holds a running mean, but for frozen ones.
    """
    found = {}
    for name, module in model.named_modules():
        tracks = getattr(module, "running_mean", None) is not None and "Frozen" not in type(module).__name__
        if isinstance(module, _BatchNorm) or tracks:
            found[name] = module
    return found


def uses_running_statistics(model: nn.Module) -> bool:
    """Whether evaluation mode and training mode normalise by other statistics."""
    return any(getattr(module, "running_mean", None) is not None for module in normalisers(model).values())


def has_compiled(model: nn.Module) -> bool:
    """Whether a module inside is wrapped by `torch.compile`."""
    return any(hasattr(module, "_orig_mod") for module in model.modules())


class Evaluation:
    """Evaluation mode for the time of a call; the modules' own modes come back afterwards.

    Modules that `torch.compile` wraps run uncompiled: what it makes has no second derivative.

    Entered around every call of a model: a class and a list, as both a generator and a walk over the modules take time.

    Args:
        modules: the model's.
        has_compiled: whether one of them is wrapped so.
        by_batch: those that are to be in training mode all the same, for the statistics of the batch.
    """

    def __init__(
        self, modules: Sequence[nn.Module], has_compiled: bool = False, by_batch: Sequence[nn.Module] = ()
    ) -> None:
        self.modules, self.has_compiled, self.by_batch = modules, has_compiled, by_batch

    def __enter__(self) -> None:
        if self.has_compiled:
            self._stance = torch.compiler.set_stance("force_eager")
            self._stance.__enter__()
        self._training = [module for module in self.modules if module.training]
        for module in self._training:
            module.training = False
        for module in self.by_batch:
            module.training = True
            if isinstance(module, nn.SyncBatchNorm):  # whose own forward would ask the other ranks
                module.__dict__["forward"] = MethodType(_BatchNorm.forward, module)

    def __exit__(self, *_: object) -> None:
        for module in self.by_batch:
            module.training = False
            if isinstance(module, nn.SyncBatchNorm):
                del module.__dict__["forward"]
        for module in self._training:
            module.training = True
        if self.has_compiled:
            self._stance.__exit__(None, None, None)


def select_prediction(output: Any, key: str | None) -> torch.Tensor:
    """The one tensor of a model's output that the loss reads: under `key`, else `logits`, else the first.

    Raises:
        LoadError: CT028, the output holds no such tensor.
    """
    if isinstance(output, torch.Tensor) and key is None:
        return output
    entries = dict(output.items()) if hasattr(output, "items") else None
    if entries is None and isinstance(output, (tuple, list)):
        entries = {str(i): value for i, value in enumerate(output)}
    if entries is not None and key is None:
        tensors = [name for name, value in entries.items() if isinstance(value, torch.Tensor)]
        key = "logits" if "logits" in tensors else next(iter(tensors), None)
    found = entries.get(key) if entries is not None and key is not None else None
    if not isinstance(found, torch.Tensor):
        held = ", ".join(map(str, entries)) if entries is not None else type(output).__name__
        raise LoadError(
            "CT028",
            "cannot tell which part of the model's output is the prediction",
            expected=f"a tensor{f' under {key!r}' if key else ''}",
            received=held,
            remedy="--output-key NAME (or a number for a tuple)",
        )
    return found
