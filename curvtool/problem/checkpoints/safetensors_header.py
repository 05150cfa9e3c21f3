"""The header of a safetensors file: names, shapes and dtypes, without reading the tensors."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from curvtool.problem.checkpoints.limits import MAX_HEADER_BYTES, parse_json, too_large, torn

BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32,
    "U16": 16, "U8": 8, "BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One tensor: its shape, its dtype as the file names it, and where its bytes begin and end in the file."""

    shape: tuple[int, ...]
    dtype: str
    start: int
    stop: int


def read_header(path: Path) -> tuple[dict[str, Entry], dict[str, str]]:
    """The tensors by name, and the metadata.

    Raises:
        LoadError: CT011, the header is damaged, or claims more or less than the file holds.
    """
    total = path.stat().st_size
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > total - 8:
            raise torn(path, ValueError(f"a header of {size:,} bytes in a file of {total:,}"))
        if size > MAX_HEADER_BYTES:
            raise too_large(path, f"a header of {size:,} bytes")
        header = parse_json(file.read(size), path)
    try:
        metadata = {str(k): str(v)[:1000] for k, v in dict(header.get("__metadata__") or {}).items()}
        entries = {name: _entry(name, item, 8 + size) for name, item in header.items() if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise torn(path, error) from error
    held = max((entry.stop for entry in entries.values()), default=8 + size)
    if total != held:
        raise torn(path, ValueError(f"{total:,} bytes where the header foretells {held:,}"))
    return entries, metadata


def _entry(name: str, item: Any, offset: int) -> Entry:
    shape, dtype = item["shape"], item["dtype"]
    start, stop = item["data_offsets"]
    sizes = (*shape, start, stop)
    if not all(type(number) is int and 0 <= number < 2**62 for number in sizes) or dtype not in BITS:
        raise ValueError(f"no such tensor: {name[:60]} of shape {str(shape)[:60]} and type {str(dtype)[:20]}")
    if prod(shape) * BITS[dtype] != (stop - start) * 8:
        raise ValueError(f"{name[:60]}: {stop - start:,} bytes for the shape {str(shape)[:60]}")
    return Entry(tuple(shape), dtype, offset + start, offset + stop)
