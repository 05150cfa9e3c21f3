"""Losses of language models: cross-entropy over the tokens that count, the vocabulary in the last dimension."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn import functional

from curvtool.errors import LoadError
from curvtool.problem.losses.cross_entropy import CrossEntropy
from curvtool.problem.tree import Tree


class MaskedLM(CrossEntropy):
    """Cross-entropy of logits (n, T, V) and labels (n, T) at the same positions; the mean is over counted tokens.

    Labels are `ignore_index` where a token was not masked.
    """

    name = "masked-lm"

    def _classes_last(self, output: torch.Tensor, target: torch.Tensor) -> bool:
        return True

    def _check_dimensions(self, output: torch.Tensor, target: torch.Tensor) -> None:
        if output.dim() != 3 or target.shape != output.shape[:2]:
            raise LoadError(
                "CT028",
                f"the model's output does not fit the labels of {self.name}",
                expected="logits of shape (n, T, vocabulary), labels of shape (n, T)",
                received=f"an output of shape {tuple(output.shape)}, targets of shape {tuple(target.shape)}",
                remedy="--output-key logits, or --target-key labels",
            )

    def check_targets(self, output: torch.Tensor, target: torch.Tensor, first_row: int = 0) -> None:
        """Token indices within the vocabulary."""
        if target.is_floating_point():
            raise LoadError(
                "CT028",
                f"{self.name} cannot use these targets",
                expected="token indices (int64)",
                received=f"{target.dtype} of shape {tuple(target.shape)}",
                remedy="store the labels as int64",
            )
        super().check_targets(output, target, first_row)


class CausalLM(MaskedLM):
    """Cross-entropy of the logits (n, T, V) at position t and the label at t + 1; the mean is over counted labels.

    Labels (n, T) stand beside the inputs, as Hugging Face's models take them; they are the inputs themselves where the
    data have none, padding (`attention_mask` 0) left out. Of T labels the first is never predicted, so that a
    sequence of T tokens counts T - 1 at most.
    """

    name = "causal-lm"

    def aligned(self, target: torch.Tensor) -> torch.Tensor:
        """The labels one position to the left; the last logits have none.

        Raises:
            LoadError: CT028, they are no sequences.
        """
        if target.dim() != 2:
            raise LoadError(
                "CT028",
                "causal-lm needs labels of sequences",
                expected="labels of shape (n, T), one a token",
                received=f"targets of shape {tuple(target.shape)}",
                remedy="--target-key labels, or none: the tokens themselves",
            )
        return functional.pad(target[:, 1:], (0, 1), value=self.ignore_index)

    def _check_dimensions(self, output: torch.Tensor, target: torch.Tensor) -> None:
        super()._check_dimensions(output, target)
        if target.shape[1] < 2:
            raise LoadError(
                "CT023",
                "sequences of one token have no next token",
                expected="sequences of two tokens or more",
                received=f"labels of shape {tuple(target.shape)}",
                remedy="longer sequences (--sequence-length)",
            )

    def targets_from(self, inputs: Tree) -> tuple[torch.Tensor, str] | None:
        """The tokens themselves, those that the mask hides left out."""
        tokens = inputs.get("input_ids") if isinstance(inputs, Mapping) else inputs
        if isinstance(inputs, Mapping) and tokens is None:
            tokens = next(iter(inputs.values()))
        if not isinstance(tokens, torch.Tensor) or tokens.is_floating_point() or tokens.dim() != 2:
            return None
        mask = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
        if isinstance(mask, torch.Tensor) and mask.shape == tokens.shape:
            labels = torch.where(mask != 0, tokens.long(), self.ignore_index)
            return labels, "labels: the tokens themselves, padding left out"
        return tokens, "labels: the tokens themselves"
