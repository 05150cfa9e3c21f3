"""The state of torch in which a model can be differentiated twice, and what torch says where it cannot."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from types import TracebackType

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from curvtool.device import ATTENTION, has_own_attention, is_host, precise
from curvtool.errors import CurvtoolError, DerivativeError, LoadError


class Differentiable:
    """Gradients on, attention by plain operations, TensorFloat-32 off; all as before afterwards.

    A class and no generator, and no more settings than need be: around a product of milliseconds, whose numbers have
    filled the caches, `contextlib` and `sdpa_kernel` were seen to take 4 % of its time.

    Args:
        device: where the model runs; settings of other devices are left alone.
        tf32: allow TensorFloat-32 products on CUDA.
        cudnn: allow cuDNN, whose recurrent layers have no second derivative.
        around: another context to enter within.
        tell: the error in words for what was raised inside; None where it has none, and it goes on as it is.

    Raises:
        DerivativeError: CT050, an operation inside has no such derivative.
    """

    def __init__(
        self,
        device: torch.device,
        *,
        tf32: bool = False,
        cudnn: bool = True,
        tell: Callable[[BaseException], CurvtoolError | None] = lambda error: None,
        around: Callable[[], contextlib.AbstractContextManager[None]] | None = None,
    ) -> None:
        self._around = around() if around is not None else None
        self.device, self.tf32, self.cudnn, self._tell = device, tf32, cudnn, tell

    def __enter__(self) -> None:
        self._had_gradients = torch.is_grad_enabled()
        self._switched = [(switch, not wanted) for _, is_on, switch, wanted in ATTENTION if is_on() != wanted]
        for switch, before in self._switched:
            switch(not before)
        self._settings = None if is_host(self.device) else self._device_settings()
        torch.set_grad_enabled(True)
        if self._around is not None:
            self._around.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._around is not None:
            self._around.__exit__(None, None, None)
        torch.set_grad_enabled(self._had_gradients)
        if self._settings is not None:
            self._settings.close()
        for switch, before in self._switched:
            switch(before)
        if error is None:
            return
        told = (_translate(error) if isinstance(error, RuntimeError) else None) or self._tell(error)
        if told is not None:
            raise told from error

    def _device_settings(self) -> contextlib.ExitStack:
        settings = contextlib.ExitStack()
        settings.enter_context(precise(self.device, self.tf32, self.cudnn))
        if has_own_attention(self.device):  # which has no switch but this
            settings.enter_context(sdpa_kernel(SDPBackend.MATH))
        return settings


_REPLACE = "replace the operation by plain torch operations (in the factory); or --hvp finite-difference, approximate"
# what torch says, the code, what it means, the way out; the first that fits
_SIGNS = (
    ("forward AD", "CT050", "an operation in the model has no forward-mode derivative",
     "--hvp auto, kept or fresh: reverse mode twice"),
    ("jvp function", "CT050", "a custom autograd function in the model has no forward-mode derivative",
     "--hvp auto, kept or fresh: reverse mode twice"),
    ("vmap", "CT050", "an operation in the model cannot be mapped over", "--hvp auto"),
    ("CuDNN RNN", "CT056", "a recurrent layer runs in cuDNN, which has no second derivative",
     "torch.backends.cudnn.enabled = False in the factory"),
    ("torch.compile with aot_autograd", "CT057", "a part of the model is compiled, and has no second derivative",
     "leave torch.compile out of the factory"),
    ("support backward on CPU", "CT058", "FlexAttention has no derivative on the CPU",
     "plain attention: F.scaled_dot_product_attention (Hugging Face: attn_implementation sdpa or eager)"),
    ("_scaled_dot_product", "CT058", "a fused attention kernel has no second derivative",
     "call F.scaled_dot_product_attention, which is switched to plain operations here"),
    ("flash_attn", "CT058", "a fused attention kernel has no second derivative",
     "F.scaled_dot_product_attention (Hugging Face: attn_implementation sdpa or eager)"),
    ("is incompatible with .grad()", "CT059", "activation checkpointing by re-entering has no second derivative",
     "checkpoint(…, use_reentrant=False), or none at all"),
    ("Checkpointing is not compatible", "CT059", "activation checkpointing by re-entering has no second derivative",
     "checkpoint(…, use_reentrant=False), or none at all"),
    ("inplace operation", "CT054", "the model changes in place what a derivative needs",
     "out of place: x = x + 1 for x += 1, inplace=False"),
    ("once_differentiable", "CT050", "a custom autograd function in the model is differentiable once", _REPLACE),
    ("is not implemented", "CT050", "an operation in the model has no second derivative", _REPLACE),
    ("ouble backward", "CT050", "an operation in the model has no second derivative", _REPLACE),
    ("not differentiable", "CT050", "an operation in the model has no second derivative", _REPLACE),
)  # fmt: skip


def _translate(error: BaseException) -> DerivativeError | None:
    """What torch says where an operation has no (second) derivative, as an error with a way out."""
    text = str(error)
    found = next((entry for entry in _SIGNS if entry[0] in text), None)
    if found is None:
        return None
    _, code, message, remedy = found
    expected = "operations that forward mode knows" if "forward-mode" in message else "operations with two derivatives"
    return DerivativeError(code, message, expected=expected, received=text.strip().splitlines()[0][:300], remedy=remedy)


def told_of_index(error: BaseException) -> LoadError | None:
    """A token beyond the embedding, in a batch that the first check did not see; None for other errors."""
    if isinstance(error, AssertionError):  # the guards of an exported program
        return LoadError(
            "CT024",
            "the model fails on a batch",
            expected="a model that takes batches of any size",
            received=f"AssertionError: {str(error).strip().partition(chr(10))[0][:300]}",
            remedy="export it with a batch of any size: dynamic_shapes=({0: torch.export.Dim('batch')},)",
        )
    if not isinstance(error, IndexError):
        return None
    return LoadError(
        "CT024",
        "the model fails on the inputs",
        expected="indices (tokens) within the model's embeddings",
        received=f"IndexError: {str(error).strip().partition(chr(10))[0][:300]}",
        remedy="compare the largest index in the inputs with the model's vocabulary",
    )
