"""Decoders as attacks use them: a copy of the given one, and its pictures in the form of the client's images."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gia.models import pretrained

#: Brightness of red, green and blue (ITU-R BT.601, as in Pillow's "L").
_LUMA = (0.299, 0.587, 0.114)


def decoder_for(decoder: nn.Module | None, reference: Tensor) -> nn.Module:
    """A frozen copy of the decoder on the device and in the dtype of `reference`; None takes the real face decoder.

    The copy keeps the mode that the decoder is in, so a trained one belongs in eval mode. Raises TypeError for anything
    but a module, ValueError for one without `latent_shape`, FileNotFoundError where the face decoder is not installed.
    """
    decoder = pretrained("face-decoder") if decoder is None else decoder
    if not isinstance(decoder, nn.Module):
        raise TypeError(f"decoder: expected a torch.nn.Module, got {type(decoder).__name__}")
    shape = getattr(decoder, "latent_shape", None)
    if not isinstance(shape, tuple | torch.Size) or not all(isinstance(side, int) and side > 0 for side in shape):
        raise ValueError(f"decoder: expected a module whose latent_shape is the shape of one latent, got {shape!r}")
    copied = copy.deepcopy(decoder).requires_grad_(False)
    return copied.to(device=reference.device, dtype=reference.dtype)


def as_images(pictures: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
    """A decoder's pictures (N, c, h, w) in [0, 1] as images (N, C, H, W) in [0, 1] of the client's shape.

    Sides: stretched by antialiased bilinear interpolation, as `gia.data` resizes photos; pictures of that size are left
    as they are. Channels: color to gray by brightness, gray to color by three equal channels. Differentiable. Raises
    ValueError for pictures of another form or with other numbers of channels.
    """
    if pictures.dim() != 4:
        raise ValueError(f"decoder: expected images (N, C, H, W), got {tuple(pictures.shape)}")
    channels, *sides = image_shape
    if pictures.shape[1] == 3 and channels == 1:
        pictures = (pictures * pictures.new_tensor(_LUMA).view(3, 1, 1)).sum(1, keepdim=True)
    elif pictures.shape[1] == 1 and channels == 3:
        pictures = pictures.expand(-1, 3, -1, -1)
    elif pictures.shape[1] != channels:
        raise ValueError(f"decoder: its {pictures.shape[1]} channels do not turn into the client's {channels}")
    if list(pictures.shape[2:]) != sides:
        pictures = F.interpolate(pictures, size=tuple(sides), mode="bilinear", antialias=True)
    return pictures
