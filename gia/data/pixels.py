"""From pictures to tensors: central square, antialiased resizing, [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

__all__ = ["stack", "to_square"]


def to_square(picture: Image.Image, size: int) -> Image.Image:
    """The central square of `picture`, resized to `size` x `size` pixels.

    Pillow's bilinear filter widens its support when it shrinks, so it is antialiased, and it works on 8-bit integers:
    the same pixels on every machine, and 8-bit images as a client would hold them.
    """
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    square = picture.crop((left, top, left + side, top + side))
    return square if side == size else square.resize((size, size), Image.Resampling.BILINEAR)


def stack(pictures: Sequence[Image.Image]) -> Tensor:
    """(N, C, H, W) float32 in [0, 1] from 8-bit pictures of one size and mode (C is 1 for "L", 3 for "RGB")."""
    array = np.stack([np.asarray(picture) for picture in pictures])
    array = array[:, None] if array.ndim == 3 else array.transpose(0, 3, 1, 2)
    return torch.from_numpy(array.copy()).float() / 255
