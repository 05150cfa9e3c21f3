"""The state of torch in which a model can be differentiated twice, and what torch says where it cannot."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from curvtool.errors import DerivativeError


@contextlib.contextmanager
def differentiable(device: torch.device, *, tf32: bool = False, cudnn: bool = True) -> Iterator[None]:
    """Gradients on, attention by plain operations, TensorFloat-32 off; all as before afterwards.

    Args:
        device: where the model runs; settings of other devices are left alone, as they take their time.
        tf32: allow TensorFloat-32 products on CUDA.
        cudnn: allow cuDNN, whose recurrent layers have no second derivative.

    Raises:
        DerivativeError: CT050, an operation inside has no such derivative.
    """
    settings = _cuda_settings(tf32, cudnn) if device.type == "cuda" else contextlib.nullcontext()
    with sdpa_kernel(SDPBackend.MATH), settings, torch.enable_grad():
        try:
            yield
        except RuntimeError as error:
            told = _translate(error)
            if told is None:
                raise
            raise told from error


@contextlib.contextmanager
def _cuda_settings(tf32: bool, cudnn: bool) -> Iterator[None]:
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    enabled = cudnn and torch.backends.cudnn.enabled
    with torch.backends.cudnn.flags(enabled=enabled, allow_tf32=tf32, deterministic=True):
        matmul.allow_tf32 = tf32
        try:
            yield
        finally:
            matmul.allow_tf32 = before


def is_out_of_memory(error: BaseException) -> bool:
    """CUDA's error is a type of its own; the CPU allocator's is told by its words alone."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def _translate(error: BaseException) -> DerivativeError | None:
    """What torch says where an operation has no (second) derivative, as an error with a way out."""
    text = str(error)
    signs = (
        "is not implemented",
        "ouble backward",
        "forward AD",
        "once_differentiable",
        "not differentiable",
    )
    if not any(sign in text for sign in signs):
        return None
    if "does not support forward AD" in text or "forward AD" in text:
        return DerivativeError(
            "CT050",
            "an operation in the model has no forward-mode derivative",
            expected="operations that forward mode knows",
            received=text.strip().splitlines()[0][:300],
            remedy="--hvp auto, kept or fresh: reverse mode twice",
        )
    return DerivativeError(
        "CT050",
        "an operation in the model has no second derivative",
        expected="operations that can be differentiated twice",
        received=text.strip().splitlines()[0][:300],
        remedy="replace the operation by one written in plain torch operations (in the factory)",
    )
