"""Pixel errors: PSNR in decibels, and whether an image was recovered exactly."""

from __future__ import annotations

import torch
from torch import Tensor

from gia.metrics._checks import image_pair

__all__ = ["PSNR_CAP", "exact", "psnr"]

PSNR_CAP = 100.0
"""Decibels at which `psnr` stops: a root mean squared error of 1e-5, far below one step of an 8-bit image."""

_EXACT = {torch.float32: 1e-3, torch.float64: 1e-9}


@torch.no_grad()
def psnr(reconstruction: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image, 10 log10(1 / MSE) dB with peak 1.

    Args:
        reconstruction: aligned images (B,C,H,W), float32 or float64; values outside [0,1] are clamped.
        reference: the originals (B,C,H,W), in [0,1].

    Returns:
        Tensor (B,), in dB, at most `PSNR_CAP`: an identical image scores the cap, so that one exact image does not make
        the mean over a batch infinite.

    Raises:
        TypeError, ValueError: see `gia.metrics`.
    """
    reconstruction, reference = image_pair(reconstruction, reference)
    error = (reconstruction.clamp(0, 1) - reference).square().mean(dim=(1, 2, 3))
    return -10 * error.clamp_min(10 ** (-PSNR_CAP / 10)).log10()


@torch.no_grad()
def exact(reconstruction: Tensor, reference: Tensor) -> Tensor:
    """Whether each image was recovered exactly: BoolTensor (B,).

    Exact means that no value is off by more than 1e-9 in float64 or 1e-3 in float32. The reconstruction is taken as it
    is, not clamped: clamping would forgive an analytic attack its errors above 1 and below 0.
    """
    reconstruction, reference = image_pair(reconstruction, reference)
    return (reconstruction - reference).abs().amax(dim=(1, 2, 3)) <= _EXACT[reference.dtype]
