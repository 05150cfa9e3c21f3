"""Every setting of a run that all analyses share, declared once: its type, default, flag, help and place in the file.

The command line expands these classes into options (`cli/options.py`); `resolve.py` fills them from flags, variables
and TOML. Nothing heavy is imported here, so that `--help` answers at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from curvtool.config.section import AnalysisSettings, Section, numbers_of, parse_bytes, setting
from curvtool.errors import UsageError
from curvtool.vocabulary import LOSSES, BatchNorm, Dtype, FormChoice, ModeChoice, Reduction, TokenDtype, Weights


def check_seed(seed: int | None, flag: str) -> None:
    """Raises CT001 for a seed that no generator takes."""
    if seed is not None and not 0 <= seed < 2**63:
        raise UsageError(
            "CT001", f"{flag} is too large", expected="0 to 2^63 - 1", received=str(seed), remedy=f"{flag} 0"
        )


@dataclass(frozen=True)
class ModelConfig(Section):
    """The checkpoint and the code that it belongs to."""

    checkpoint: str | None = setting(None, "Checkpoint file or folder, or demo:digits.")
    factory: str | None = setting(
        None,
        "The model's code, module:callable; the working folder is importable.",
        metavar="MODULE:NAME",
    )
    factory_args: dict[str, Any] = setting(
        {},
        "Argument of the factory, name=value; the value is read as JSON, else as a string.",
        "-K",
        metavar="NAME=VALUE",
    )
    weights: Weights = setting("auto", "Which weights of a training checkpoint.")
    trust: bool = setting(False, "Load a file that can run code: only if you trust whoever made it.")
    trust_remote_code: bool = setting(False, "Run the Python files of a Hugging Face folder: only if you read them.")
    base_model: str | None = setting(None, "Folder of the base model of a PEFT adapter.", metavar="FOLDER")
    submodule: str | None = setting(None, "Take this part of the model alone, as encoder.", metavar="NAME")
    output_key: str | None = setting(None, "Entry of a dict or tuple output that is the prediction.", metavar="KEY")
    batch_norm: BatchNorm = setting(
        "eval",
        "What BatchNorm normalises by: running statistics, or those of each batch of --batch-size samples, as in "
        "training; the batch size is then part of the quantity.",
    )


@dataclass(frozen=True)
class DataConfig(Section):
    """The samples."""

    source: str | None = setting(
        None,
        "Data: .npz, .npy, a pair x.npy,y.npy, .safetensors, .pt, .bin (tokens), .parquet, .csv, .jsonl, .txt, a "
        "folder of such files, of images, or written by save_to_disk, or module:callable.",
        "--data",
        metavar="SOURCE",
    )
    input_key: str | None = setting(
        None, "Name of the inputs in the data; several columns of a table with commas.", metavar="KEY"
    )
    target_key: str | None = setting(None, "Name of the targets in the data.", metavar="KEY")
    num_samples: int | None = setting(None, "Use this many samples (the first, or drawn by --subset-seed).", minimum=1)
    subset_seed: int | None = setting(None, "Draw the samples by this seed instead of taking the first.", minimum=0)
    split: str | None = setting(None, "Part of a data set that has parts (train, test, …).", metavar="NAME")
    sequence_length: int | None = setting(None, "Tokens per sequence (.bin, text).", minimum=2)
    token_dtype: TokenDtype = setting("uint16", "Type of the tokens in a .bin file.")
    tokenizer: str | None = setting(None, "Folder of the tokenizer of text; the model's by default.", metavar="FOLDER")
    image_size: int | None = setting(None, "Resize images and cut out the middle, pixels.", minimum=1)
    image_mean: str | None = setting(
        None, "Of the channels, as 0.485,0.456,0.406: subtracted from pixels between 0 and 1.", metavar="NUMBERS"
    )
    image_std: str | None = setting(None, "Standard deviation of the channels, to divide by.", metavar="NUMBERS")
    batch_size: str = setting(
        "auto",
        "Samples a batch at most, or auto; affects speed and memory alone, except with --batch-norm batch. For trace "
        "and diag --memory-budget decides how many probes run at once.",
        metavar="N|auto",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_seed(self.subset_seed, "--subset-seed")
        for name in ("image_mean", "image_std"):
            numbers_of(getattr(self, name), f"--{name.replace('_', '-')}")
        if self.batch_size != "auto" and not (str(self.batch_size).isdigit() and int(self.batch_size) > 0):
            raise UsageError(
                "CT001",
                "no such batch size",
                expected="auto, or a number from 1",
                received=str(self.batch_size),
                remedy="--batch-size auto",
            )


@dataclass(frozen=True)
class LossConfig(Section):
    """The loss."""

    name: str = setting(
        "auto",
        ", ".join(LOSSES) + " (which returns its own), or package.module:callable called as loss(output, target); auto "
        "guesses by the model's class and the targets' type, and says so.",
        "--loss",
        metavar="NAME",
    )
    options: dict[str, Any] = setting(
        {},
        "Option of the loss, name=value: class_weights=[1,2,5], label_smoothing=0.1, pos_weight=3, delta=0.5, …; the "
        "value is read as JSON, else as a file (.npy, .json).",
        "-L",
        metavar="NAME=VALUE",
    )
    reduction: Reduction = setting(
        "mean",
        "mean: the sum over all samples divided by the global weight (token-mean: the same, over tokens); sum: not "
        "divided; sample-mean: the mean of each sample's own mean over its tokens.",
    )
    ignore_index: int = setting(-100, "Class index that does not count (cross-entropy and language models).")


@dataclass(frozen=True)
class ParamsConfig(Section):
    """Which parameters take part."""

    include: list[str] = setting(
        [], "Shell pattern of parameters that take part; repeat for several.", "--params", metavar="GLOB"
    )
    exclude: list[str] = setting([], "Shell pattern of parameters that do not.", metavar="GLOB")


@dataclass(frozen=True)
class ComputeConfig(Section):
    """Where and how to compute."""

    device: str = setting("auto", "auto, cpu, cuda or cuda:N.", metavar="DEVICE")
    dtype: Dtype | None = setting(None, "Precision; the weights' own by default, float32 for half-precision weights.")
    seed: int = setting(0, "Seed of every random draw; the same seed gives the same values.", minimum=0)
    memory_budget: str | None = setting(
        None,
        "For kept graphs and vectors together, as 8GiB; half of the free memory by default.",
        metavar="SIZE",
    )
    hvp: ModeChoice = setting(
        "auto",
        "How Hessian products are run; auto measures on your model. finite-difference: of gradients, a last resort.",
    )
    operations: FormChoice = setting(
        "auto", "The model's operations: torch's own, or rewritten for cheap second derivatives; auto measures."
    )
    shard_parameters: bool = setting(
        False, "On several ranks: each holds a shard of every parameter, for models that do not fit one device."
    )
    rank_timeout: float = setting(
        600.0, "Seconds that one of several ranks waits for the others.", minimum=1, metavar="SECONDS"
    )
    cache: bool = setting(
        True,
        "Take the checks and timings from an earlier run of the same model, data and settings (--no-cache: never).",
    )
    tf32: bool = setting(False, "Allow TensorFloat-32 on CUDA: faster, and 13 bits less.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_seed(self.seed, "--seed")
        if self.memory_budget is not None:
            parse_bytes(self.memory_budget)


SECTIONS: dict[str, type[Section]] = {
    "model": ModelConfig,
    "data": DataConfig,
    "loss": LossConfig,
    "params": ParamsConfig,
    "compute": ComputeConfig,
}


@dataclass(frozen=True)
class RunConfig:
    """A whole run: one problem, one analysis, and where each value came from."""

    model: ModelConfig
    data: DataConfig
    loss: LossConfig
    params: ParamsConfig
    compute: ComputeConfig
    analysis: AnalysisSettings
    sources: dict[str, str] = field(default_factory=dict)
    folder: str | None = None
