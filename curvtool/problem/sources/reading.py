"""How a source is read: what the user says of it, and what the model and the loss say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from curvtool.errors import LoadError
from curvtool.problem.host import free_host_bytes


@dataclass(frozen=True)
class Reading:
    """Attributes:
    input_key: the name of the inputs among named arrays or columns (several with commas); guessed if None.
    target_key: likewise for the targets.
    num_samples: how many samples to take; all if None.
    subset_seed: draw them by this seed instead of taking the first.
    split: which part of a data set that has parts.
    sequence_length: tokens a sequence.
    token_dtype: of a file of tokens.
    next_tokens: tokens have the next ones as their targets (else the loss finds them itself).
    mask_tokens: hide tokens, which are the targets (masked language models).
    tokenizer: the folder of the tokenizer.
    image_size: pixels that images are resized and cropped to.
    image_mean: subtracted from each channel of images between 0 and 1.
    image_std: what they are divided by.
    seed: of the tokens that are hidden.
    """

    input_key: str | None = None
    target_key: str | None = None
    num_samples: int | None = None
    subset_seed: int | None = None
    split: str | None = None
    sequence_length: int | None = None
    token_dtype: str = "uint16"
    next_tokens: bool = True
    mask_tokens: bool = False
    tokenizer: Path | None = None
    image_size: int | None = None
    image_mean: tuple[float, ...] | None = None
    image_std: tuple[float, ...] | None = None
    seed: int = 0


def require_room(num_bytes: int, what: str, remedy: str = "--num-samples N") -> None:
    """Refuses to read what does not fit the memory, before reading it.

    Raises:
        LoadError: CT027.
    """
    free = free_host_bytes()
    if num_bytes > free:
        raise LoadError(
            "CT027",
            f"{what} does not fit the memory",
            expected=f"at most {free / 2**30:.1f} GiB, which are free",
            received=f"{num_bytes / 2**30:.1f} GiB",
            remedy=remedy,
        )
