"""Files of tokens and nothing else, one number after the other, as language models are trained on: mapped, not read."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from curvtool.errors import LoadError
from curvtool.problem.checkpoints.limits import require_regular
from curvtool.problem.data import Data
from curvtool.problem.sources.arrays import tensor_of
from curvtool.problem.sources.reading import Reading
from curvtool.words import counted

DTYPES = ("uint16", "uint32", "int32", "int64", "uint8")


def read_tokens(path: Path, reading: Reading) -> Data:
    """Consecutive sequences of T tokens, (N, T); the tokens of a last piece are left out.

    Targets are the next tokens where the loss wants some, else there are none and a causal loss shifts the inputs.

    Raises:
        LoadError: CT021, no length was given, or the file holds no such sequence.
    """
    require_regular(path)
    length = reading.sequence_length
    if length is None:
        raise LoadError(
            "CT021",
            f"{path} is a row of tokens without sequences",
            expected="--sequence-length, the tokens of a sequence as in training",
            received="none",
            remedy="--sequence-length 1024 --token-dtype uint16",
        )
    item = np.dtype(reading.token_dtype).itemsize
    if path.stat().st_size % item:
        raise LoadError(
            "CT021",
            f"{path} is not a whole number of {reading.token_dtype} tokens",
            expected=f"a size that {item} divides",
            received=f"{counted(path.stat().st_size, 'byte')}",
            remedy=f"--token-dtype, one of {', '.join(DTYPES)}",
        )
    num_tokens = path.stat().st_size // item
    num = (num_tokens - (1 if reading.next_tokens else 0)) // length
    if num < 1:
        raise LoadError(
            "CT023",
            f"{path} holds no whole sequence",
            expected=f"{counted(length, 'token', 'd')} or more",
            received=counted(num_tokens, "token"),
            remedy="a smaller --sequence-length",
        )
    row = tensor_of(np.memmap(path, np.dtype(reading.token_dtype), "r"), path.name)
    inputs = row[: num * length].view(num, length)
    targets = row[1 : num * length + 1].view(num, length) if reading.next_tokens else None
    note = f"{counted(num, 'sequence')} of {counted(length, 'token', 'd')} ({reading.token_dtype}), one after the other"
    following = (", the next tokens their targets",) if targets is not None else ("",)
    return Data(inputs, targets, (note + following[0],), mapped=True, checked=True)
