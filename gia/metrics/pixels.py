"""Pixel errors: PSNR in decibels, root mean squared error, and whether an image was recovered exactly."""

from __future__ import annotations

import torch
from torch import Tensor

from gia.metrics._checks import image_pair

__all__ = ["PSNR_CAP", "exact", "exact_share", "psnr", "recovered_share", "rmse"]

PSNR_CAP = 100.0
"""Largest value of `psnr` in dB: a root mean squared error of 1e-5, far below one step of an 8-bit image."""

_EXACT = {torch.float32: 1e-3, torch.float64: 1e-9}


@torch.no_grad()
def psnr(reconstruction: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image, 10 log10(1 / MSE) dB with peak 1.

    Args:
        reconstruction: aligned images (B,C,H,W), float32 or float64; values outside [0,1] are clamped.
        reference: the originals (B,C,H,W), in [0,1].

    Returns:
        Tensor (B,), in dB, at most `PSNR_CAP`. An identical image scores the cap; an infinite score would make the mean
        over a batch infinite.

    Raises:
        TypeError, ValueError: see `gia.metrics`.

    >>> import torch, gia
    >>> reference = gia.data.load("cifar10-samples").images[:2]
    >>> gia.metrics.psnr(0.9 * reference, reference)
    tensor([26.6934, 23.3265])
    """
    reconstruction, reference = image_pair(reconstruction, reference)
    error = (reconstruction.clamp(0, 1) - reference).square().mean(dim=(1, 2, 3))
    return -10 * error.clamp_min(10 ** (-PSNR_CAP / 10)).log10()


@torch.no_grad()
def rmse(reconstruction: Tensor, reference: Tensor) -> Tensor:
    """Root mean squared error of each image over its pixels and channels.

    Args:
        reconstruction: aligned images (B,C,H,W), float32 or float64; values outside [0,1] are clamped.
        reference: the originals (B,C,H,W), in [0,1].

    Returns:
        Tensor (B,), in [0,1].

    Raises:
        TypeError, ValueError: see `gia.metrics`.

    >>> import torch, gia
    >>> reference = gia.data.load("cifar10-samples").images[:2]
    >>> gia.metrics.rmse(0.9 * reference, reference)
    tensor([0.0463, 0.0682])
    """
    reconstruction, reference = image_pair(reconstruction, reference)
    return (reconstruction.clamp(0, 1) - reference).square().flatten(1).mean(1).sqrt()


@torch.no_grad()
def exact(reconstruction: Tensor, reference: Tensor) -> Tensor:
    """Whether each image was recovered exactly: no value differs by more than 1e-9 in float64 or 1e-3 in float32.

    The reconstruction is not clamped: clamping would hide errors of an analytic attack above 1 and below 0.

    Args:
        reconstruction: aligned images (B,C,H,W), float32 or float64.
        reference: the originals (B,C,H,W), in [0,1].

    Returns:
        BoolTensor (B,).

    Raises:
        TypeError, ValueError: see `gia.metrics`.

    >>> import torch, gia
    >>> reference = gia.data.load("digits").images[:2]
    >>> gia.metrics.exact(reference + torch.tensor([1e-4, 1e-2]).view(2, 1, 1, 1), reference)
    tensor([ True, False])
    """
    reconstruction, reference = image_pair(reconstruction, reference)
    return (reconstruction - reference).abs().amax(dim=(1, 2, 3)) <= _EXACT[reference.dtype]


@torch.no_grad()
def exact_share(reconstruction: Tensor, reference: Tensor) -> Tensor:
    """`exact` as numbers, 1 for an exact image and 0 for another: their mean is the share of exact images.

    Args:
        reconstruction: aligned images (B,C,H,W), float32 or float64; not clamped.
        reference: the originals (B,C,H,W), in [0,1].

    Returns:
        Tensor (B,) of zeros and ones, in the dtype of the images.

    Raises:
        TypeError, ValueError: see `gia.metrics`.

    >>> import torch, gia
    >>> reference = gia.data.load("digits").images[:2].double()
    >>> gia.metrics.exact_share(reference + torch.tensor([0.0, 1e-4]).view(2, 1, 1, 1), reference).mean()
    tensor(0.5000, dtype=torch.float64)
    """
    return exact(reconstruction, reference).to(reference.dtype)


@torch.no_grad()
def recovered_share(reconstruction: Tensor, reference: Tensor) -> Tensor:
    """As `exact_share`, with the limit 1e-3 in float64, too.

    It is meant for attacks on model updates: a difference of two weights has fewer correct digits than a gradient.

    Args:
        reconstruction: aligned images (B,C,H,W), float32 or float64; not clamped.
        reference: the originals (B,C,H,W), in [0,1].

    Returns:
        Tensor (B,) of zeros and ones, in the dtype of the images.

    Raises:
        TypeError, ValueError: see `gia.metrics`.

    >>> import torch, gia
    >>> reference = gia.data.load("digits").images[:2].double()
    >>> gia.metrics.recovered_share(reference + torch.tensor([1e-4, 1e-2]).view(2, 1, 1, 1), reference)
    tensor([1., 0.], dtype=torch.float64)
    """
    reconstruction, reference = image_pair(reconstruction, reference)
    return ((reconstruction - reference).abs().amax(dim=(1, 2, 3)) <= _EXACT[torch.float32]).to(reference.dtype)
