"""TorchScript and torch.export archives: programs, which run only where the user trusts them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from curvtool.errors import LoadError, suggest
from curvtool.problem.checkpoints.limits import archive_entry, parse_json, torn
from curvtool.problem.checkpoints.sniff import FileKind


class ScriptedModule(nn.Module):
    """A TorchScript module as an ordinary one, whose parameters may be replaced while it is called.

    `torch.func` refuses TorchScript. So the parameters and buffers stand here in a tree of plain modules under the
    names they have there, and every call first puts those of the moment into the script's slots. The script runs
    operation by operation: its own optimiser takes derivatives in ways that are not meant to be differentiated again.
    It has no forward mode (its tangents are silently zero).

    Args:
        script: the loaded archive.
    """

    def __init__(self, script: Any) -> None:
        super().__init__()
        self._script = [script]  # not a submodule
        self._slots: list[tuple[Any, str, nn.Module]] = []
        self._mirror(script, self)

    @property
    def graph(self) -> Any:
        """The program with all that it calls."""
        return getattr(self._script[0], "inlined_graph", None)

    def _mirror(self, script: Any, place: nn.Module) -> None:
        for name, parameter in script.named_parameters(recurse=False):
            place.register_parameter(name, nn.Parameter(parameter.detach(), parameter.requires_grad))
            self._slots.append((script._c, name, place))
        for name, buffer in script.named_buffers(recurse=False):
            place.register_buffer(name, buffer.detach())
            self._slots.append((script._c, name, place))
        for name, inner in script.named_children():
            child = nn.Module()
            place.add_module(name, child)
            self._mirror(inner, child)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The script's own, with the parameters of the moment."""
        for slots, name, place in self._slots:
            slots.setattr(name, getattr(place, name))
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            return self._script[0](*args, **kwargs)


def load_script(path: Path, kind: FileKind, trust: bool, submodule: str | None = None) -> nn.Module:
    """The module of a TorchScript archive, or a part of it, in evaluation mode.

    Raises:
        LoadError: CT013 no such part; CT015, it is not trusted, or fails although it is.
    """
    _require_trust(path, kind, trust)
    try:
        script = torch.jit.load(path, map_location="cpu").eval()
    except Exception as error:  # trusted code may fail in any way
        raise _fails(path, error) from error
    return ScriptedModule(script if submodule is None else part_of(script, submodule))


def load_exported(path: Path, kind: FileKind, trust: bool) -> nn.Module:
    """The module of a torch.export archive.

    Raises:
        LoadError: CT015, it is not trusted, or fails although it is.
    """
    _require_trust(path, kind, trust)
    try:
        return torch.export.load(path).module()
    except Exception as error:  # trusted code may fail in any way
        raise _fails(path, error) from error


def part_of(module: Any, name: str) -> Any:
    """A module within another by its dotted name.

    Raises:
        LoadError: CT013, there is none.
    """
    known = dict(module.named_modules())
    if name not in known:
        raise LoadError(
            "CT013",
            f"the model has no part {name!r}",
            expected="the dotted name of a module in it",
            received=name,
            remedy=suggest(name, [each for each in known if each] or ["(it has no parts)"]),
        )
    return known[name]


def _require_trust(path: Path, kind: FileKind, trust: bool) -> None:
    if not trust:
        raise LoadError(
            "CT015",
            f"{path} is {kind.description}",
            expected="--trust, or the original module's state dict and --factory",
            received=kind.format,
            remedy="add --trust if you trust whoever made the file; products in reverse mode alone",
        )


def _fails(path: Path, error: Exception) -> LoadError:
    return LoadError(
        "CT015",
        f"{path} cannot be loaded, even trusted",
        expected="an archive of this or an earlier torch",
        received=f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[-1][:300]}",
        remedy=f"torch {torch.__version__} is here; or save the state dict and name its class with --factory",
    )


def exported_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The weights of a torch.export archive by name, without numbers, from its own list of them.

    Raises:
        LoadError: CT011, there is none.
    """
    from torch._export.serde.schema import ScalarType

    content = parse_json(archive_entry(path, "data/weights/model_weights_config.json"), path)
    types = {"FLOAT": "float32", "DOUBLE": "float64", "HALF": "float16", "LONG": "int64", "INT": "int32"}
    found = {}
    try:
        for name, item in content["config"].items():
            meta = item["tensor_meta"]
            word = ScalarType(meta["dtype"]).name
            dtype = getattr(torch, types.get(word, word.lower()))
            found[str(name)] = torch.empty([size["as_int"] for size in meta["sizes"]], dtype=dtype, device="meta")
    except Exception as error:  # another version's list, or a damaged one
        raise torn(path, error) from error
    return found
