"""Files made to do harm, tried in a process with little memory: each must end in a typed error, and leave no trace.

Run as a program, it makes them in the folder named, opens each by every way there is, and prints what came of it.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import struct
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

CASES: dict[str, Callable[[Path], Path]] = {}


def case(function: Callable[[Path], Path]) -> Callable[[Path], Path]:
    CASES[function.__name__] = function
    return function


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 4)


class Command:
    """Runs a command when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.command = f"touch {folder / 'RAN'}"

    def __reduce__(self):
        return os.system, (self.command,)


def _weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return Net().state_dict()


# programs in pickles


@case
def command_in_a_torch_file(folder):
    torch.save({"state_dict": _weights(), "x": Command(folder)}, folder / "net.pt")
    return folder / "net.pt"


@case
def command_in_a_legacy_torch_file(folder):
    torch.save({"a": Command(folder)}, folder / "net.pt", _use_new_zipfile_serialization=False)
    return folder / "net.pt"


@case
def command_in_a_bare_pickle(folder):
    (folder / "net.pkl").write_bytes(pickle.dumps(Command(folder)))
    return folder / "net.pkl"


@case
def command_in_a_pickle_of_protocol_0(folder):
    (folder / "net.pkl").write_bytes(pickle.dumps(Command(folder), protocol=0))
    return folder / "net.pkl"


@case
def command_as_a_key(folder):
    class Key(Command):
        def __hash__(self):
            return 1

    torch.save({Key(folder): 1, **_weights()}, folder / "net.pt")
    return folder / "net.pt"


@case
def command_behind_an_allowed_name(folder):
    """A name that begins as an allowed one does."""
    program = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(cbuiltins\nexec\nX\x05\x00\x00\x00print\x85Rtr."
    return _torch_zip(folder, program)


@case
def command_in_an_npz(folder):
    np.savez(folder / "data.npz", inputs=np.array([Command(folder)], dtype=object))
    return folder / "data.npz"


@case
def command_in_an_npy(folder):
    np.save(folder / "inputs.npy", np.array([Command(folder)], dtype=object))
    return folder / "inputs.npy"


@case
def command_in_hugging_face_weights(folder):
    place = _hugging_face(folder)
    torch.save({"a": Command(folder)}, place / "pytorch_model.bin")
    return place


@case
def command_in_one_of_the_shards(folder):
    place = _hugging_face(folder)
    torch.save({"a": Command(folder)}, place / "shard.bin")
    (place / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": "shard.bin"}}))
    return place


@case
def command_in_a_distributed_index(folder):
    place = folder / "step"
    place.mkdir()
    (place / "__0_0.distcp").write_bytes(b"")
    (place / ".metadata").write_bytes(pickle.dumps(Command(folder)))
    return place


@case
def command_in_a_distributed_piece(folder):
    from torch.distributed.checkpoint.filesystem import _StorageInfo
    from torch.distributed.checkpoint.metadata import (
        ChunkStorageMetadata,
        Metadata,
        MetadataIndex,
        TensorProperties,
        TensorStorageMetadata,
    )  # fmt: skip

    place = folder / "step"
    place.mkdir()
    torch.save(Command(folder), place / "__0_0.distcp")
    size = torch.Size([4])
    item = TensorStorageMetadata(TensorProperties(torch.float32), size, [ChunkStorageMetadata(torch.Size([0]), size)])
    place_of = {MetadataIndex("model.a", torch.Size([0])): _StorageInfo("__0_0.distcp", 0, 10**6)}
    index = Metadata({"model.a": item}, {"model.a": ("model", "a")}, place_of)
    (place / ".metadata").write_bytes(pickle.dumps(index))
    return place


@case
def distributed_piece_outside_the_folder(folder):
    place = command_in_a_distributed_piece(folder)
    content = (place / ".metadata").read_bytes()
    (place / ".metadata").write_bytes(content.replace(b"__0_0.distcp", b"../../../etc"))
    return place


@case
def command_in_an_adapter(folder):
    place = folder / "adapter"
    place.mkdir()
    (folder / "base").mkdir()
    _hugging_face(folder / "base")
    base = str(folder / "base" / "hf")
    (place / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": base}))
    torch.save({"a": Command(folder)}, place / "adapter_model.bin")
    return place


@case
def code_in_a_hugging_face_folder(folder):
    place = _hugging_face(folder, architectures=["EvilModel"], auto_map={"AutoModel": "evil.EvilModel"})
    (place / "evil.py").write_text(f"open({str(folder / 'RAN')!r}, 'w')\n")
    torch.save(_weights(), place / "pytorch_model.bin")
    return place


@case
def code_in_another_repository(folder):
    place = _hugging_face(folder, architectures=["EvilModel"], auto_map={"AutoModel": "evil/repo--evil.EvilModel"})
    torch.save(_weights(), place / "pytorch_model.bin")
    return place


@case
def torchscript_that_writes_a_file(folder):
    target = str(folder / "RAN")

    class Script(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 4)

        def forward(self, x):
            return self.layer(x)

        @torch.jit.export
        def __getstate__(self):
            return self.layer.weight

        @torch.jit.export
        def __setstate__(self, state: torch.Tensor):
            torch.save(state, "TARGET")

    try:
        Script.__setstate__.__globals__["TARGET"] = target
        torch.jit.script(Script()).save(str(folder / "net.pt"))
    except Exception:  # this torch's script refuses it: a plain one, which may not be loaded either
        torch.jit.script(Net.__new__(Net).__class__().layer).save(str(folder / "net.pt"))
    return folder / "net.pt"


@case
def exported_program_without_trust(folder):
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),)), folder / "net.pt2")
    return folder / "net.pt2"


# archives


def _torch_zip(folder: Path, program: bytes, compress: int = zipfile.ZIP_STORED, prefix: str = "net/") -> Path:
    with zipfile.ZipFile(folder / "net.pt", "w", compress) as archive:
        archive.writestr(prefix + "data.pkl", program)
        archive.writestr(prefix + "version", "3\n")
        archive.writestr(prefix + "byteorder", "little")
    return folder / "net.pt"


def _bomb(path: Path, name: str, gigabytes: int = 4) -> Path:
    zeros = bytes(2**24)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open(name, "w", force_zip64=True) as entry:
            for _ in range(gigabytes * 64):
                entry.write(zeros)
        archive.writestr(name.partition("/")[0] + "/version", "3\n")
    return path


@case
def zip_bomb_as_a_torch_file(folder):
    return _bomb(folder / "net.pt", "net/data.pkl")


@case
def zip_bomb_in_a_storage(folder):
    good = io.BytesIO()
    torch.save({"a": torch.zeros(2**8)}, good)
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(folder / "net.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in source.infolist():
            content = source.read(entry)
            archive.writestr(entry.filename, bytes(2**28) if entry.filename.endswith("data/0") else content)
    return folder / "net.pt"


@case
def zip_bomb_as_an_npz(folder):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (2**20, 2**10)})
    with (
        zipfile.ZipFile(folder / "data.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("inputs.npy", "w", force_zip64=True) as entry,
    ):
        entry.write(header.getvalue())
        for _ in range(256):
            entry.write(bytes(2**24))
    return folder / "data.npz"


@case
def entries_that_overlap(folder):
    path = _torch_zip(folder, pickle.dumps(_weights(), protocol=2) * 50)
    content = bytearray(path.read_bytes())
    start = content.rfind(b"PK\x01\x02", 0, content.rfind(b"PK\x05\x06"))
    content[start + 20 : start + 28] = struct.pack("<II", 10**9, 10**9)
    path.write_bytes(content)
    return path


@case
def names_that_lead_out_of_the_archive(folder):
    with zipfile.ZipFile(folder / "net.pt", "w") as archive:
        archive.writestr("../../data.pkl", pickle.dumps(_weights(), protocol=2))
        archive.writestr("/tmp/../etc/data.pkl", b"x")
        archive.writestr("net/../../RAN", b"x")
    return folder / "net.pt"


@case
def a_million_entries(folder):
    with zipfile.ZipFile(folder / "net.pt", "w") as archive:
        for i in range(20_000):
            archive.writestr(f"net/data/{i}", b"")
    return folder / "net.pt"


@case
def shards_outside_the_folder(folder):
    place = _hugging_face(folder)
    index = {"weight_map": {"a": "../../../../etc/passwd", "b": "/etc/shadow"}}
    (place / "model.safetensors.index.json").write_text(json.dumps(index))
    return place


@case
def truncated_archive(folder):
    torch.save({"a": torch.zeros(10**5)}, folder / "net.pt")
    content = (folder / "net.pt").read_bytes()
    (folder / "net.pt").write_bytes(content[: len(content) // 2])
    return folder / "net.pt"


@case
def truncated_legacy_file(folder):
    torch.save({"a": torch.zeros(10**5)}, folder / "net.pt", _use_new_zipfile_serialization=False)
    content = (folder / "net.pt").read_bytes()
    (folder / "net.pt").write_bytes(content[: len(content) // 2])
    return folder / "net.pt"


@case
def archive_cut_before_its_directory(folder):
    torch.save(_weights(), folder / "net.pt")
    content = (folder / "net.pt").read_bytes()
    (folder / "net.pt").write_bytes(content[: content.rfind(b"PK\x01\x02")])
    return folder / "net.pt"


# safetensors


def _safetensors(folder: Path, header: bytes, data: bytes = b"", size: int | None = None) -> Path:
    path = folder / "net.safetensors"
    path.write_bytes((len(header) if size is None else size).to_bytes(8, "little") + header + data)
    return path


def _entry(**changes: Any) -> bytes:
    return json.dumps({"layer.weight": {"dtype": "F32", "shape": [4, 3], "data_offsets": [0, 48], **changes}}).encode()


@case
def gigabyte_header(folder):
    path = _safetensors(folder, b'{"a":{', size=2**30)
    os.truncate(path, 2**31)  # a sparse file: the size fits
    return path


@case
def header_beyond_the_file(folder):
    return _safetensors(folder, b'{"a":1}', size=2**62)


@case
def header_nested_without_end(folder):
    return _safetensors(folder, b'{"a":' * 100_000 + b"1" + b"}" * 100_000)


@case
def header_of_numbers(folder):
    return _safetensors(folder, b'{"a":' + b"9" * 10_000 + b"}")


@case
def billion_elements_in_safetensors(folder):
    return _safetensors(folder, _entry(shape=[10**9, 10**9]), bytes(48))


@case
def shapes_that_overflow(folder):
    return _safetensors(folder, _entry(shape=[2**61, 2**61, 8]), bytes(48))


@case
def negative_shape(folder):
    return _safetensors(folder, _entry(shape=[-4, -3]), bytes(48))


@case
def offsets_backwards(folder):
    return _safetensors(folder, _entry(data_offsets=[48, 0]), bytes(48))


@case
def unknown_type(folder):
    return _safetensors(folder, _entry(dtype="EVIL"), bytes(48))


@case
def shape_of_strings(folder):
    return _safetensors(folder, _entry(shape=["4", "3"]), bytes(48))


@case
def two_tensors_in_one_place(folder):
    entry = {"dtype": "F32", "shape": [4, 3], "data_offsets": [0, 48]}
    return _safetensors(folder, json.dumps({"layer.weight": entry, "layer.bias": entry}).encode(), bytes(48))


@case
def header_that_is_a_list(folder):
    return _safetensors(folder, b'{"__metadata__":[1,2], "a":[]}')


# claims in torch files


def _rebuilt(folder: Path, size: str, stride: str, numel: int = 4) -> Path:
    """A torch file with a tensor of this size over a storage of four numbers, written by hand."""
    program = (
        b"\x80\x02}X\x0c\x00\x00\x00layer.weightctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storage"
        b"ctorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu" + f"I{numel}\n".encode() + b"tQK\x00"
        + size.encode() + stride.encode() + b"\x89ccollections\nOrderedDict\n)RtRs."
    )  # fmt: skip
    path = _torch_zip(folder, program)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("net/data/0", bytes(16))
        archive.writestr("net/.data/serialization_id", "1")
    return path


@case
def tensor_expanded_to_billions(folder):
    return _rebuilt(folder, "(I1000000000\nI1000\nt", "(K\x00K\x00t")


@case
def tensor_beyond_its_storage(folder):
    return _rebuilt(folder, "(I1000000000\nt", "(K\x01t")


@case
def storage_that_claims_more(folder):
    return _rebuilt(folder, "(I4000000000\nt", "(K\x01t", 4_000_000_000)


@case
def negative_tensor(folder):
    return _rebuilt(folder, "(I-4\nt", "(K\x01t")


@case
def legacy_storage_that_claims_terabytes(folder):
    torch.save({"a": torch.zeros(4)}, folder / "net.pt", _use_new_zipfile_serialization=False)
    content = (folder / "net.pt").read_bytes()
    (folder / "net.pt").write_bytes(content.replace(b"K\x04Nt", b"\x8a\x06\x00\x00\x00\x00\x00\x01Nt"))
    return folder / "net.pt"


@case
def memo_of_billions(folder):
    return _torch_zip(folder, b"\x80\x02}r\xff\xff\xff\x7f.")


@case
def string_of_gigabytes(folder):
    return _torch_zip(folder, b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"a.")


@case
def bytes_of_gigabytes(folder):
    return _torch_zip(folder, b"\x80\x05\x96" + struct.pack("<Q", 2**33) + b"a.")


@case
def byte_array_of_gigabytes_in_a_legacy_file(folder):
    """Found by fuzzing: the pure Python unpickler makes the array before it reads."""
    header = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
    (folder / "net.pt").write_bytes(header + b"\x80\x05\x96" + struct.pack("<Q", 2**33) + b"a.")
    return folder / "net.pt"


@case
def lists_in_lists(folder):
    value: Any = []
    for _ in range(60):
        value = [value] * 10
    torch.save({"inputs": value, "model": value}, folder / "net.pt")
    return folder / "net.pt"


@case
def dictionary_in_itself(folder):
    content: dict[str, Any] = {}
    content["model"] = content["inputs"] = content
    content["list"] = [content]
    torch.save(content, folder / "net.pt")
    return folder / "net.pt"


@case
def list_in_itself(folder):
    value: list[Any] = []
    value.append(value)
    torch.save({"inputs": value, "targets": value}, folder / "net.pt")
    return folder / "net.pt"


@case
def sparse_tensor_of_trillions(folder):
    sparse = torch.sparse_coo_tensor(torch.zeros(2, 1).long(), torch.ones(1), (10**6, 10**6))
    torch.save({"layer.weight": sparse, "layer.bias": torch.zeros(4)}, folder / "net.pt")
    return folder / "net.pt"


@case
def quantised_weights(folder):
    quantised = torch.quantize_per_tensor(torch.randn(4, 3), 0.1, 0, torch.qint8)
    torch.save({"layer.weight": quantised, "layer.bias": torch.zeros(4)}, folder / "net.pt")
    return folder / "net.pt"


@case
def not_a_number_in_the_weights(folder):
    weights = _weights()
    weights["layer.bias"][1] = float("nan")
    torch.save(weights, folder / "net.pt")
    return folder / "net.pt"


@case
def infinity_in_safetensors(folder):
    from safetensors.torch import save_file

    weights = _weights()
    weights["layer.bias"][1] = float("inf")
    save_file(weights, folder / "net.safetensors")
    return folder / "net.safetensors"


@case
def meta_tensors(folder):
    torch.save({"layer.weight": torch.empty(4, 3, device="meta"), "layer.bias": torch.zeros(4)}, folder / "net.pt")
    return folder / "net.pt"


# NumPy


@case
def npy_of_exabytes(folder):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (2**60,)})
    (folder / "inputs.npy").write_bytes(header.getvalue() + bytes(100))
    return folder / "inputs.npy"


@case
def npy_header_of_gigabytes(folder):
    (folder / "inputs.npy").write_bytes(b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + b"{'descr':")
    return folder / "inputs.npy"


@case
def npy_header_with_code(folder):
    text = f"__import__('os').system('touch {folder / 'RAN'}')".ljust(117) + "\n"
    (folder / "inputs.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode())
    return folder / "inputs.npy"


# what is no file


@case
def link_to_itself(folder):
    (folder / "net.pt").symlink_to(folder / "net.pt")
    return folder / "net.pt"


@case
def links_in_a_circle(folder):
    (folder / "a.pt").symlink_to(folder / "b.pt")
    (folder / "b.pt").symlink_to(folder / "a.pt")
    return folder / "a.pt"


@case
def folder_that_links_to_itself(folder):
    (folder / "data").mkdir()
    (folder / "data" / "inner").symlink_to(folder / "data")
    return folder / "data"


@case
def named_pipe(folder):
    os.mkfifo(folder / "net.pt")
    return folder / "net.pt"


@case
def endless_device(folder):
    (folder / "net.pt").symlink_to("/dev/zero")
    return folder / "net.pt"


@case
def folder_of_pipes(folder):
    place = folder / "hf"
    place.mkdir()
    for name in ("config.json", "model.safetensors"):
        os.mkfifo(place / name)
    return place


@case
def empty_file(folder):
    (folder / "net.pt").write_bytes(b"")
    return folder / "net.pt"


@case
def one_byte(folder):
    (folder / "net.pt").write_bytes(b"\x80")
    return folder / "net.pt"


@case
def name_with_a_null(folder):
    return folder / "net\0.pt"


@case
def name_without_end(folder):
    return folder / ("a" * 5000)


# configurations


def _hugging_face(folder: Path, **config: Any) -> Path:
    place = folder / "hf"
    place.mkdir()
    default = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 4, "n_layer": 1, "n_head": 1,
               "vocab_size": 5}  # fmt: skip
    (place / "config.json").write_text(json.dumps({**default, **config}))
    return place


@case
def configuration_of_gigabytes(folder):
    place = _hugging_face(folder)
    os.truncate(place / "config.json", 2**31)
    torch.save(_weights(), place / "pytorch_model.bin")
    return place


@case
def configuration_nested_without_end(folder):
    place = _hugging_face(folder)
    (place / "config.json").write_text("[" * 200_000 + "]" * 200_000)
    torch.save(_weights(), place / "pytorch_model.bin")
    return place


@case
def configuration_of_a_billion_layers(folder):
    place = _hugging_face(folder, n_embd=10**6, n_layer=10**6, vocab_size=10**9)
    torch.save(_weights(), place / "pytorch_model.bin")
    return place


@case
def architecture_that_is_a_path(folder):
    place = _hugging_face(folder, architectures=["../../evil", "__import__('os')", "os.system"], model_type="evil")
    torch.save(_weights(), place / "pytorch_model.bin")
    return place


@case
def weights_that_do_not_belong(folder):
    place = _hugging_face(folder)
    torch.save(_weights(), place / "pytorch_model.bin")
    return place


@case
def quantised_folder(folder):
    place = _hugging_face(folder, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    torch.save(_weights(), place / "pytorch_model.bin")
    return place


def try_all(folder: Path, budget: int) -> list[dict[str, Any]]:
    """Opens every file by every way."""
    from curvtool.errors import EXIT_LOAD, CurvtoolError
    from curvtool.problem.checkpoints.load import load_model
    from curvtool.problem.sources.paths import from_path
    from curvtool.setup.inspection import inspect_file

    found = []
    for name, make in CASES.items():
        print(name, file=sys.stderr, flush=True)
        place = folder / name
        place.mkdir()
        path = make(place)
        before = sorted(p for p in place.rglob("*") if not p.is_symlink())
        for way, call in {
            "inspect": lambda path=path: inspect_file(path),
            "load": lambda path=path: load_model(path, Net()),
            "alone": lambda path=path: load_model(path, None),
            "data": lambda path=path: from_path(str(path)),
        }.items():
            start, peak = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            try:
                call()
                outcome = "opened"
            except CurvtoolError as error:
                outcome = error.code if error.exit_status == EXIT_LOAD else f"status {error.exit_status}"
            except BaseException as error:
                outcome = f"{type(error).__name__}: {str(error)[:200]}"
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) / 1024
            seconds = time.monotonic() - start
            left = sorted(p for p in place.rglob("*") if not p.is_symlink()) != before or (folder / "RAN").exists()
            found.append(
                {"case": name, "way": way, "outcome": outcome, "seconds": seconds, "grown": grown, "left": left}
            )
    return found


if __name__ == "__main__":
    memory = 3 * 2**30
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    print(json.dumps(try_all(Path(sys.argv[1]), memory)))
