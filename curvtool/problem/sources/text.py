"""Text, by the tokenizer of a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from curvtool.errors import LoadError
from curvtool.problem.checkpoints.hugging_face import import_extra
from curvtool.problem.checkpoints.limits import require_regular
from curvtool.problem.data import Data, choose_rows
from curvtool.problem.sources.reading import Reading, require_room
from curvtool.words import counted

DEFAULT_LENGTH, MASKED_SHARE = 128, 0.15


def read_text(path: Path, reading: Reading) -> Data:
    """A text file as sequences of tokens: for language models all of it, cut into sequences of one length.

    Raises:
        LoadError: CT018 transformers is not installed, CT021 no tokenizer or no text, CT023 too short.
    """
    require_regular(path)
    require_room(10 * path.stat().st_size, str(path), "split the file, or make it a .bin of tokens")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise LoadError(
            "CT021",
            f"{path} is no text",
            expected="UTF-8",
            received=f"{error.reason} at byte {error.start}",
            remedy="iconv -t utf-8",
        ) from error
    tokenizer = _tokenizer(reading)
    length = _length(reading, tokenizer)
    ids = torch.tensor(tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"])
    num = len(ids) // length
    if num < 1:
        raise LoadError(
            "CT023",
            f"{path} holds no whole sequence",
            expected=f"{counted(length, 'token', 'd')} or more",
            received=counted(len(ids), "token"),
            remedy=f"--sequence-length {max(len(ids), 2)}",
        )
    rows, note = choose_rows(num, reading.num_samples, reading.subset_seed)
    sequences = ids[: num * length].view(num, length)[list(rows)].long()
    told = [
        f"{counted(num, 'sequence')} of {counted(length, 'token', 'd')}, one after the other",
        *([note] if note else []),
    ]
    if reading.mask_tokens:
        hidden, labels = masked(sequences, torch.zeros_like(sequences, dtype=torch.bool), tokenizer, reading.seed)
        return Data(hidden, labels, (*told, _masked_note(labels, reading.seed)))
    return Data({"input_ids": sequences}, None, tuple(told))


def tokenized(texts: Sequence[Any], reading: Reading) -> tuple[dict[str, torch.Tensor], str]:
    """A sequence a row, padded to the longest, with its mask; labels too where tokens are hidden.

    Raises:
        LoadError: CT018, CT021; CT025, a row that is no text.
    """
    tokenizer = _tokenizer(reading)
    rows = list(texts)
    bad = next((row for row, text in enumerate(rows) if not isinstance(text, str) or not text), None)
    if bad is not None:
        raise LoadError(
            "CT025",
            f"row {bad} holds no text",
            expected="text in every row",
            received=repr(rows[bad])[:100],
            remedy="drop or mend that row",
        )
    length = _length(reading, tokenizer)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token  # hidden by the mask, and counted nowhere
    made = tokenizer(rows, truncation=True, max_length=length, padding=True, return_special_tokens_mask=True)
    arrays = {
        name: torch.tensor(made[name]) for name in ("input_ids", "attention_mask", "token_type_ids") if name in made
    }
    told = f"text as {tuple(arrays['input_ids'].shape)} tokens, padded, cut after {length}"
    if reading.mask_tokens:
        special = torch.tensor(made["special_tokens_mask"]).bool() | (arrays["attention_mask"] == 0)
        arrays["input_ids"], arrays["labels"] = masked(arrays["input_ids"], special, tokenizer, reading.seed)
        told += f"; {_masked_note(arrays['labels'], reading.seed)}"
    return arrays, told


def masked(ids: torch.Tensor, special: torch.Tensor, tokenizer: Any, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens of which a share is replaced by the mask token, and labels that count there alone.

    Raises:
        LoadError: CT021, the tokenizer has no mask token.
    """
    if tokenizer.mask_token_id is None:
        raise LoadError(
            "CT021",
            "the tokenizer has no mask token",
            expected="a tokenizer of a masked language model",
            received=type(tokenizer).__name__,
            remedy="--loss causal-lm",
        )
    draws = torch.rand(ids.shape, generator=torch.Generator().manual_seed(seed))
    hidden = (draws < MASKED_SHARE) & ~special
    return torch.where(hidden, tokenizer.mask_token_id, ids), torch.where(hidden, ids, -100)


def _masked_note(labels: torch.Tensor, seed: int) -> str:
    return f"{counted(int((labels != -100).sum()), 'token')} hidden at random (seed {seed}), which are the labels"


def _length(reading: Reading, tokenizer: Any) -> int:
    most = int(min(getattr(tokenizer, "model_max_length", DEFAULT_LENGTH), 2**20))
    return reading.sequence_length or min(most, DEFAULT_LENGTH)


def _tokenizer(reading: Reading) -> Any:
    folder = reading.tokenizer
    names = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "spiece.model", "tokenizer.model")
    if folder is None or not any((Path(folder) / name).is_file() for name in names):
        raise LoadError(
            "CT021",
            "text needs a tokenizer",
            expected="a folder with tokenizer.json, the model's or --tokenizer",
            received=str(folder) if folder else "none",
            remedy="--tokenizer FOLDER, or tokens: a .bin file, or arrays input_ids and attention_mask",
        )
    transformers = import_extra("transformers", "hf")
    transformers.logging.set_verbosity_error()
    try:
        return transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise LoadError(
            "CT021",
            f"the tokenizer in {folder} cannot be loaded",
            expected="a tokenizer of transformers",
            received=f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}",
            remedy="python -c \"import transformers; transformers.AutoTokenizer.from_pretrained('FOLDER')\"",
        ) from error
