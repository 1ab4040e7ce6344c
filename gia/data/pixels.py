"""From pictures to tensors in [0, 1]: central square and antialiased resizing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

__all__ = ["stack", "to_square"]


def to_square(picture: Image.Image, size: int) -> Image.Image:
    """The central square of a picture, resized.

    Pillow's bilinear filter is antialiased, because it widens its support when it shrinks a picture. It computes in
    8-bit integers, so it gives the same pixels on every machine, and 8-bit images as a client would store them.

    Args:
        picture: of any width and height.
        size: width and height of the result, in pixels.

    >>> from PIL import Image
    >>> from gia.data.pixels import to_square
    >>> to_square(Image.new("RGB", (300, 200)), 32).size
    (32, 32)
    """
    shorter = min(picture.size)
    left, top = (picture.width - shorter) // 2, (picture.height - shorter) // 2
    square = picture.crop((left, top, left + shorter, top + shorter))
    return square if shorter == size else square.resize((size, size), Image.Resampling.BILINEAR)


def stack(pictures: Sequence[Image.Image]) -> Tensor:
    """A batch of images from 8-bit pictures of one size and mode.

    Args:
        pictures: N pictures of mode "L" or "RGB".

    Returns:
        Tensor (N, C, H, W), float32 in [0, 1]; C is 1 for "L" and 3 for "RGB".

    >>> from PIL import Image
    >>> from gia.data.pixels import stack
    >>> stack([Image.new("L", (2, 1), 255)])
    tensor([[[[1., 1.]]]])
    """
    array = np.stack([np.asarray(picture) for picture in pictures])
    array = array[:, None] if array.ndim == 3 else array.transpose(0, 3, 1, 2)
    return torch.from_numpy(array.copy()).float() / 255
