"""Small pictures of inputs that are images, and of directions in them, as PNG within a report."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
import torch

_LARGEST = 96  # pixels of a side; larger images are averaged down
_CHANNELS = {1, 3, 4}


def is_image(shape: torch.Size) -> bool:
    """Whether an example of this shape is shown: (C, H, W) with 1, 3 or 4 channels and sides of 4 and more."""
    return len(shape) == 3 and shape[0] in _CHANNELS and min(shape[1:]) >= 4


def of_image(image: torch.Tensor) -> str:
    """(C, H, W), stretched from its least to its largest value; of four channels the first three. PNG in base64."""
    pixels = _smaller(image)[:3]
    low, high = float(pixels.min()), float(pixels.max())
    return _png(((pixels - low) / (high - low or 1.0)).expand(3, -1, -1))


def of_direction(direction: torch.Tensor) -> str:
    """(C, H, W), summed over the channels: red where more of a pixel moves the outputs, blue where less of it does."""
    total = _smaller(direction).sum(0)
    share = total / (float(total.abs().max()) or 1.0)
    fading = 1.0 - share.abs()
    red, blue = torch.where(share > 0, 1.0, fading), torch.where(share < 0, 1.0, fading)
    return _png(torch.stack([red, fading, blue]))


def _smaller(image: torch.Tensor) -> torch.Tensor:
    """Averaged over squares of pixels, so that no side is longer than the largest that is shown."""
    image = image.detach().to("cpu", torch.float64)
    size = -(-max(image.shape[1:]) // _LARGEST)
    if size == 1:
        return image
    height, width = (side // size * size for side in image.shape[1:])
    return image[:, :height, :width].unflatten(2, (-1, size)).unflatten(1, (-1, size)).mean(dim=(2, 4))


def _png(channels: torch.Tensor) -> str:
    """(3, H, W) between 0 and 1 as a PNG in base64 (RFC 2083: 8 bits, no filter)."""
    pixels = np.rint(channels.clamp(0, 1).permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + body).decode()
