"""Fuzzing of sniffing, inspecting, loading and reading data: real files, damaged at random.

Run as a program with a folder, a number of inputs and a seed; prints how they ended. A crash is what is no typed error.
"""

from __future__ import annotations

import io
import json
import random
import resource
import struct
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import torch
from hostile import CASES, Net
from safetensors.torch import save

_WORDS = [
    b"\xff\xff\xff\x7f", b"\xff" * 8, b"\x00" * 8, struct.pack("<Q", 2**40), b"PK\x01\x02", b"R", b"c", b"t", b"{",
]  # fmt: skip


def _seeds(folder: Path) -> dict[str, bytes]:
    """Small files of every format, by the suffix they have."""
    torch.manual_seed(0)
    weights = Net().state_dict()
    found = {}
    for name, content in {
        "dict": weights,
        "training": {"model": weights, "epoch": 3, "x": [1, 2.5, "a", None]},
    }.items():
        for legacy in (False, True):
            file = io.BytesIO()
            torch.save(content, file, _use_new_zipfile_serialization=not legacy)
            found[f"{name}{legacy}.pt"] = file.getvalue()
    found["net.safetensors"] = save({**weights, "inputs": torch.zeros(4, 2)})
    file = io.BytesIO()
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(folder / "script"))
    found["script.pt"] = (folder / "script").read_bytes()
    torch.export.save(torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),)), file)
    found["program.pt2"] = file.getvalue()
    file = io.BytesIO()
    np.savez(file, inputs=np.zeros((5, 2), np.float32), targets=np.arange(5))
    found["data.npz"] = file.getvalue()
    file = io.BytesIO()
    np.save(file, np.zeros((5, 2), np.float32))
    found["inputs.npy"] = file.getvalue()
    place = folder / "seed"
    place.mkdir()
    found["index.metadata"] = (CASES["command_in_a_distributed_piece"](place) / ".metadata").read_bytes()
    found["config.json"] = b'{"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_layer": 1}'
    found["adapter_config.json"] = b'{"peft_type": "LORA", "base_model_name_or_path": "base"}'
    found["model.safetensors.index.json"] = b'{"weight_map": {"a": "net.safetensors", "b": "net.safetensors"}}'
    return found


def _damaged(content: bytes, others: list[bytes], rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        at = rng.randrange(len(changed) + 1) if changed else 0
        match rng.randrange(7):
            case 0 if changed:
                changed[at % len(changed)] ^= 1 << rng.randrange(8)
            case 1 if changed:
                changed[at % len(changed)] = rng.randrange(256)
            case 2:
                del changed[at : at + rng.randrange(1, 64)]
            case 3:
                changed[at:at] = changed[at : at + rng.randrange(1, 64)]
            case 4:
                word = rng.choice(_WORDS)
                changed[at : at + len(word)] = word
            case 5:
                other = rng.choice(others)
                start = rng.randrange(len(other))
                changed[at : at + rng.randrange(64)] = other[start : start + rng.randrange(1, 64)]
            case 6:
                changed = changed[: at or 1]
    return bytes(changed)


def _inner(content: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """Damage inside an archive, whose checksums are then right again."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as source:
            entries = [(entry.filename, source.read(entry)) for entry in source.infolist()]
    except Exception:
        return _damaged(content, others, rng)
    chosen = rng.randrange(len(entries))
    name, inside = entries[chosen]
    entries[chosen] = (name, _damaged(inside, others, rng))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, inside in entries:
            archive.writestr(name, inside)
    return file.getvalue()


def _place(folder: Path, name: str, content: bytes) -> Path:
    """The file where it is looked for: configurations and indexes in a folder with what belongs to them."""
    if name.endswith(("json", "metadata")):
        inside = ".metadata" if name.endswith("metadata") else name
        (folder / inside).write_bytes(content)
        (folder / "__0_0.distcp").write_bytes(b"x")
        if name == "config.json":
            (folder / "model.safetensors").write_bytes(save(Net().state_dict()))
        return folder
    (folder / name).write_bytes(content)
    return folder / name


def run(root: Path, num_inputs: int, seed: int) -> dict[str, object]:
    from curvtool.errors import CurvtoolError
    from curvtool.problem.checkpoints import sniff
    from curvtool.problem.checkpoints.load import load_model
    from curvtool.problem.checkpoints.read import read
    from curvtool.problem.sources.paths import from_path
    from curvtool.setup.inspection import inspect_file

    rng = random.Random(seed)
    seeds = _seeds(root)
    others = list(seeds.values())
    typed = opened = 0
    crashes: list[str] = []
    slowest = 0.0
    for number in range(num_inputs):
        name = rng.choice(list(seeds))
        content = (_inner if rng.random() < 0.4 else _damaged)(seeds[name], others, rng)
        folder = root / str(number)
        folder.mkdir()
        path = _place(folder, name, content)
        for way in (sniff.sniff, inspect_file, read, lambda p: load_model(p, Net()), lambda p: from_path(str(p))):
            start = time.monotonic()
            try:
                way(path)
                opened += 1
            except CurvtoolError:
                typed += 1
            except BaseException as error:
                crashes.append(f"{name} ({number}): {type(error).__name__}: {str(error)[:300]}")
            slowest = max(slowest, time.monotonic() - start)
        if crashes and len(crashes) > 20:
            break
        for item in folder.iterdir():
            item.unlink()
        folder.rmdir()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "inputs": number + 1,
        "typed": typed,
        "opened": opened,
        "crashes": crashes,
        "slowest": slowest,
        "peak": peak,
    }


if __name__ == "__main__":
    limit = 4 * 2**30
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    print(json.dumps(run(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
