"""What Hugging Face's datasets reads from disk: parquet, CSV, JSON lines, arrow, and folders that it saved."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from curvtool.errors import LoadError, suggest
from curvtool.problem.checkpoints.hugging_face import import_extra
from curvtool.problem.data import Data, choose_rows
from curvtool.problem.sources.images import stacked_images
from curvtool.problem.sources.objects import INPUT_KEYS, TARGET_KEYS, from_mapping
from curvtool.problem.sources.reading import Reading, require_room
from curvtool.problem.sources.text import tokenized
from curvtool.words import counted

SUFFIXES = {".parquet", ".csv", ".tsv", ".json", ".jsonl", ".arrow"}
_SAVED = {"dataset_info.json", "dataset_dict.json", "state.json"}
_TEXT_KEYS = ("text", "sentence", "content")


def is_saved_dataset(folder: Path) -> bool:
    """Whether the folder was written by `Dataset.save_to_disk`."""
    return any((folder / name).is_file() for name in _SAVED)


def read_table(path: Path, reading: Reading) -> Data:
    """The rows that are wanted, their columns as tensors.

    Columns of numbers, of lists of one length, of images and of text (with a tokenizer) are read; where no column has
    a usual name for inputs, all columns of numbers but the targets are the inputs, (N, columns) in the file's order.

    Raises:
        LoadError: CT018 datasets is not installed, CT021 no such column, or none that is read, CT025 a bad row.
    """
    datasets = import_extra("datasets", "data")
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory(prefix="curvtool-") as cache:  # of converted tables, which are not kept
        table = _split_of(_open(datasets, path, cache), path, reading.split)
        rows, note = choose_rows(len(table), reading.num_samples, reading.subset_seed)
        if len(rows) < len(table):
            table = table.select(rows)
        require_room(table.data.nbytes if len(rows) == len(table) else 0, str(path))
        data = _columns(datasets, table, reading)
    return Data(data.inputs, data.targets, (*data.notes, *([note] if note else [])))


def _open(datasets: Any, path: Path, cache: str) -> Any:
    try:
        if path.is_dir():
            return datasets.load_from_disk(str(path))
        if path.suffix == ".arrow":
            return datasets.Dataset.from_file(str(path))
        options: dict[str, Any] = {"cache_dir": cache}
        if path.suffix == ".parquet":
            return datasets.Dataset.from_parquet(str(path), **options)
        if path.suffix in {".csv", ".tsv"}:
            return datasets.Dataset.from_csv(str(path), sep="\t" if path.suffix == ".tsv" else ",", **options)
        return datasets.Dataset.from_json(str(path), **options)
    except Exception as error:  # a damaged file fails in any way
        cause = error.__cause__ or error
        raise LoadError(
            "CT021",
            f"{path} cannot be read as a table",
            expected=f"a whole {path.suffix or 'saved'} data set",
            received=f"{type(cause).__name__}: {(str(cause).strip().splitlines() or [''])[0][:200]}",
            remedy="try datasets.load_dataset on it",
        ) from error


def _split_of(table: Any, path: Path, split: str | None) -> Any:
    if not isinstance(table, dict):
        return table
    if split is None and len(table) == 1:
        return next(iter(table.values()))
    if split not in table:
        raise LoadError(
            "CT021",
            f"{path} has several splits" if split is None else f"{path} has no split {split!r}",
            expected="--split, one of " + ", ".join(table),
            received=split or "none",
            remedy=f"--split {next(iter(table))}" if split is None else suggest(split, list(table)),
        )
    return table[split]


def _columns(datasets: Any, table: Any, reading: Reading) -> Data:
    text = reading.input_key if reading.input_key in table.column_names else None
    text = text or next((name for name in _TEXT_KEYS if name in table.column_names), None)
    arrays: dict[str, Any] = {}
    notes: list[str] = []
    for name in table.column_names:
        feature = table.features[name]
        if isinstance(feature, datasets.Image):
            pillow = import_extra("PIL.Image", "data")
            arrays[name] = stacked_images(pillow, [(f"column {name}", each[name]) for each in table], reading)
        elif name == text and getattr(feature, "dtype", "") in {"string", "large_string"}:
            made, told = tokenized(table[name], reading)
            arrays |= made
            notes.append(told)
        elif getattr(feature, "dtype", "") not in {"string", "large_string"}:
            arrays[name] = _numbers(table[name], name)
    inputs, targets = reading.input_key, reading.target_key
    if text is not None and inputs == text:
        inputs = None
    listed = [part.strip() for part in inputs.split(",")] if inputs and "," in inputs else None
    if listed is None and inputs is None and not any(key in arrays for key in INPUT_KEYS):
        targets = targets or next((key for key in TARGET_KEYS if key in arrays), None)
        listed = [n for n, a in arrays.items() if isinstance(a, torch.Tensor) and a.dim() == 1 and n != targets]
    if listed:
        missing = next((name for name in listed if name not in arrays), None)
        if missing is not None:
            raise LoadError(
                "CT021",
                f"the table has no column of numbers {missing!r}",
                expected=", ".join(listed),
                received=", ".join(arrays) or "none",
                remedy=suggest(missing, list(arrays) or ["(none)"]),
            )
        arrays = {"inputs": torch.stack([arrays[name].float() for name in listed], 1)} | {
            name: value for name, value in arrays.items() if name not in listed
        }
        inputs = "inputs"
        shown = ", ".join(listed[:6]) + (f", … ({len(listed)})" if len(listed) > 6 else "")
        notes.append(f"inputs from the columns {shown}")
    data = from_mapping(arrays, inputs, targets)
    return Data(data.inputs, data.targets, (*notes, *data.notes))


def _numbers(column: Sequence[Any], name: str) -> torch.Tensor:
    """The column's rows as one tensor.

    Raises:
        LoadError: CT025, a row that is empty or of another length.
    """
    values = list(column)
    for row, value in enumerate(values):
        if value is None or (isinstance(value, (list, np.ndarray)) and len(value) != len(values[0])):
            raise LoadError(
                "CT025",
                f"column {name!r}, row {row}: {'empty' if value is None else 'of another length'}",
                expected="numbers in every row, lists of one length",
                received="nothing" if value is None else f"{counted(len(value), 'number')}, {len(values[0])} in row 0",
                remedy="drop or mend that row, or pad the lists",
            )
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "fiub":
            raise TypeError(f"a column of {array.dtype}")
        return torch.from_numpy(array.astype(np.float32) if array.dtype == np.float64 else array)
    except (ValueError, TypeError) as error:
        raise LoadError(
            "CT021",
            f"the column {name!r} holds no numbers",
            expected="numbers, lists of one length, images or text",
            received=str(error)[:200],
            remedy="leave it out of the table, or encode it as numbers",
        ) from error
