"""Complex-wavelet structural similarity, the "SSIM" of the paper's released code."""

from __future__ import annotations

import torch
from torch import Tensor

from gia.metrics._checks import image_pair
from gia.metrics.wavelets import analyze, levels_for

__all__ = ["SMALLEST", "cw_ssim", "wavelet_similarity"]

_K = 1e-6
SMALLEST = 8
"""Smallest height and width that `cw_ssim` takes, in pixels."""


@torch.no_grad()
def cw_ssim(reconstruction: Tensor, reference: Tensor) -> Tensor:
    r"""Complex-wavelet structural similarity of each image.

    At each scale j, channel and position, with x_o, y_o the coefficients of the six orientations o,

        (2 |sum_o x_o conj(y_o)| + K) / (sum_o |x_o|^2 + sum_o |y_o|^2 + K),    K = 1e-6,

    is averaged over channels and positions, then over scales with equal weight. The wavelets are those of
    `gia.metrics.wavelets`, on five scales or on as many as the size allows (4 at 16 pixels, 3 at 8).

    Departs from Wang and Simoncelli (ICASSP 2005), who sum over a window; here, as in the code of published attacks,
    the sum runs over orientations. Do not read it as SSIM: a negative scores 1, uniform noise about 0.2, and a constant
    image near 0, less than noise.

    Args:
        reconstruction: aligned images (B,C,H,W), float32 or float64; values outside [0,1] are clamped.
        reference: the originals (B,C,H,W), in [0,1], at least 8 pixels high and wide.

    Returns:
        Tensor (B,), in [0,1].

    Raises:
        TypeError, ValueError: see `gia.metrics`.

    >>> import torch, gia
    >>> reference = gia.data.load("cifar10-samples").images[:2]
    >>> gia.metrics.cw_ssim(0.9 * reference, reference)
    tensor([0.9945, 0.9945])
    >>> gia.metrics.cw_ssim(reference.mean((2, 3), keepdim=True).expand_as(reference), reference)
    tensor([0.0001, 0.0015])
    """
    reconstruction, reference = image_pair(reconstruction, reference, smallest=SMALLEST)
    return wavelet_similarity(reconstruction.clamp(0, 1), reference)


def wavelet_similarity(x: Tensor, y: Tensor) -> Tensor:
    """The formula of `cw_ssim` for images (B,C,H,W) of any range; K is 1e-6 for every range.

    Args:
        x, y: aligned images of one shape and dtype, at least 2 pixels high and wide.

    Returns:
        Tensor (B,), in [0,1].

    >>> import torch, gia
    >>> from gia.metrics.complex_wavelet import wavelet_similarity
    >>> reference = gia.data.load("cifar10-samples").images[:2]
    >>> wavelet_similarity(2 * reference - 1, reference)
    tensor([0.8000, 0.8001])
    """
    scales = []
    for real, imaginary in analyze(torch.stack((x, y)), levels_for(*x.shape[-2:])):
        (xr, yr), (xi, yi) = real.unbind(), imaginary.unbind()
        product = torch.hypot((xr * yr + xi * yi).sum(dim=-3), (xi * yr - xr * yi).sum(dim=-3))
        energy = (real * real + imaginary * imaginary).sum(dim=-3).sum(dim=0)
        scales.append(((2 * product + _K) / (energy + _K)).mean(dim=(1, 2, 3)))
    return torch.stack(scales).mean(dim=0)
